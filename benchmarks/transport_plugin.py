"""A plugin that is nothing but nri_flox.nri and nri_flox.ttrpc: constant bytes for every container that names an
environment.

It measures the transport alone; the service is measured as it is. Arguments: the runtime's socket, the number of
mounts in the answer.
"""

import signal
import sys
from collections.abc import Iterable

from nri_flox.nri import nri_pb2
from nri_flox.nri.plugin import Plugin, RuntimeInfo
from nri_flox.ttrpc.driver import Call


class Constant:
    """Answers `answer` to a pod with an environment, nothing to others."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def configure(self, runtime: RuntimeInfo, config: str) -> None: ...

    def registered(self) -> None: ...

    def synchronize(
        self, pods: Iterable[nri_pb2.PodSandbox], containers: Iterable[nri_pb2.Container], more: bool
    ) -> None: ...

    def create_container(self, pod: nri_pb2.PodSandbox, container: nri_pb2.Container, call: Call) -> bytes:
        return self._answer if "flox.dev/environment" in pod.annotations else b""

    def disconnected(self, reason: str) -> None: ...

    def shutdown(self, reason: str) -> None: ...


def answer(mounts: int) -> bytes:
    """A serialised CreateContainerResponse of `mounts` bind mounts of store paths."""
    paths = [f"/nix/store/{number:032d}-package-{number}" for number in range(mounts)]
    options = ["rbind", "ro", "nosuid", "nodev"]
    adjustment = nri_pb2.ContainerAdjustment(
        mounts=[nri_pb2.Mount(destination=path, source=path, type="bind", options=options) for path in paths]
    )
    return nri_pb2.CreateContainerResponse(adjust=adjustment).SerializeToString()


def main(socket_path: str, mounts: int) -> None:
    """Serve until SIGTERM."""
    plugin = Plugin(Constant(answer(mounts)), name="transport", index="50", socket_path=socket_path)
    signal.signal(signal.SIGTERM, lambda _number, _frame: plugin.stop())
    plugin.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
