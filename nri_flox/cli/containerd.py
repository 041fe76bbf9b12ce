"""What containerd says of itself over its own API. The only module of the package that needs grpc, with `demo`."""

from dataclasses import dataclass

import grpc

from nri_flox.cli.containerd_pb2 import PluginsRequest, PluginsResponse, VersionRequest, VersionResponse

TIMEOUT = 3.0  # seconds for each call


@dataclass(frozen=True, slots=True)
class Containerd:
    """A containerd that answered."""

    version: str
    # Measured on 1.7, 2.1 and 2.3: a plugin in `disabled_plugins` is not listed, while NRI with `disable = true` in
    # its own section is listed like one that works; only its socket tells them apart.
    has_nri: bool
    # Why NRI did not start; empty when it did.
    nri_failure: str


def ask(socket: str) -> Containerd:
    """Raises OSError when nothing answers at `socket`."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        version = channel.unary_unary(
            "/containerd.services.version.v1.Version/Version",
            VersionRequest.SerializeToString,
            VersionResponse.FromString,
        )
        plugins = channel.unary_unary(
            "/containerd.services.introspection.v1.Introspection/Plugins",
            PluginsRequest.SerializeToString,
            PluginsResponse.FromString,
        )
        try:
            said = version(VersionRequest(), timeout=TIMEOUT)
            nri = plugins(PluginsRequest(filters=["type==io.containerd.nri.v1"]), timeout=TIMEOUT).plugins
        except grpc.RpcError as error:
            raise OSError(f"no answer at {socket}: {error.details()}") from None
    return Containerd(said.version, bool(nri), nri[0].init_err.message if nri else "")
