"""A writable `/nix`: the container's own, with the environment's view below what it writes to its store.

The node's store is nowhere below it, and its database is a copy; so whatever a container does there, the node and other
containers are as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from nri_flox.adjust import texts
from nri_flox.adjust.decision import Adjust, NotReady, Refused, WritableLayer
from nri_flox.flox.environment import Failure, Fault, Layer
from nri_flox.flox.store import STORE_DIR, StorePath
from nri_flox.nri.nri_pb2 import Container, Mount, PodSandbox

_UPPER = "upperdir="


class Known(Protocol):
    """What the node knows, read without waiting."""

    def layer(self, path: StorePath) -> Layer | Failure | None:
        """A layer for a container in the environment at `path`; or why there is none, as of the last try."""


def not_mutable(pod: PodSandbox, container: Container) -> str | None:
    """Why this container can't have a writable /nix on any node, if so."""
    if any(namespace.type == "user" for namespace in (*pod.linux.namespaces, *container.linux.namespaces)):
        return (
            "the pod has a user namespace of its own (hostUsers: false), in which the kernel mounts no overlay over "
            "files of the node; leave out flox.dev/nix-mutable, or hostUsers: false"
        )
    return None


def mutable(decision: Adjust, container: Container, known: Known, since: float) -> Adjust | NotReady | Refused:
    """The decision with a writable /nix. A failure to make one counts if it came after `since` (monotonic seconds)."""
    environment, reference = decision.environment, decision.want.reference
    layer = known.layer(environment.store_path)
    if isinstance(layer, Failure) and layer.at >= since:
        text = texts.environment(container.name, reference, f"can't have a writable /nix here: {layer.detail}")
        if layer.fault is not Fault.NO_SPACE:
            return Refused(text)
        no_room = f"can't have a writable /nix: there is no space left on this node ({layer.detail})"
        return NotReady(texts.environment(container.name, reference, no_room), None)
    if not isinstance(layer, Layer):
        text = "is here, and a writable /nix is being made for it; the container is created when it is there"
        return NotReady(texts.environment(container.name, reference, text), WritableLayer(environment))
    mounts = (
        Mount(destination="/nix", type="bind", source=layer.nix, options=["bind", "rw", "nosuid", "nodev", "rprivate"]),
        Mount(
            destination=STORE_DIR,
            type="overlay",
            source="overlay",
            options=[
                "lowerdir=" + ":".join([environment.view, *([layer.flox.view] if layer.flox else [])]),
                _UPPER + layer.upper,
                f"workdir={layer.work}",
                "nosuid",
                "nodev",
            ],
        ),
    )
    environ = decision.environ
    if layer.flox is not None and "PATH" in environ:
        environ = {**environ, "PATH": _with(layer.flox.bin, environ["PATH"])}
    return replace(decision, environ=environ, mounts=(*decision.mounts, *mounts), layer=layer)


def _with(directory: str, path: str) -> str:
    """The PATH with `directory` after the environment's own, which all lie below /nix."""
    entries = path.split(":")
    place = next((at for at, entry in enumerate(entries) if not entry.startswith("/nix/")), len(entries))
    return ":".join([*entries[:place], directory, *entries[place:]])


def layer_of(container: Container) -> Layer | None:
    """The layer that a container has which was made before, by what its mounts say."""
    for mount in container.mounts:
        if mount.destination == STORE_DIR and mount.type == "overlay":
            for option in mount.options:
                layer = Layer(option.removeprefix(_UPPER).rpartition("/mounted/")[0])
                if option == _UPPER + layer.upper:
                    return layer
    return None
