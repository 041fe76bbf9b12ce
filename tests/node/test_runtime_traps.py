"""What real runtimes do with any plugin, as far as `nri_flox.nri` rests on it: traps that fail without a word."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Queue

from nri_flox.demo.node import SHELL, Node
from nri_flox.nri import nri_pb2
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.plugin import Handler, Plugin, RuntimeInfo

PATIENCE = 10.0  # seconds


class Listener(Handler):
    """Has a method for every event of any runtime but those of `without`, and notes what comes; `create` answers
    CreateContainer."""

    def __init__(self, create: Callable[[], bytes] = lambda: b"", without: Collection[str] = ()) -> None:
        self._without = without
        self.seen: Queue[str] = Queue()
        self.capabilities: Capabilities
        self._create = create

    def __getattr__(self, name: str) -> Callable[..., bytes]:
        if name.startswith("_") or name in self._without or name.upper() not in nri_pb2.Event.keys():  # noqa: SIM118
            raise AttributeError(name)

        def handle(*_: object) -> bytes:
            self.seen.put(name)
            return self._create() if name == "create_container" else b""

        return handle

    def configure(self, runtime: RuntimeInfo, config: str) -> None:
        self.capabilities = runtime.capabilities

    def synchronize(
        self, pods: Iterable[nri_pb2.PodSandbox], containers: Iterable[nri_pb2.Container], more: bool
    ) -> None:
        self.seen.put("synchronize")

    def registered(self) -> None: ...

    def shutdown(self, reason: str) -> None: ...

    def disconnected(self, reason: str) -> None:
        self.seen.put(f"disconnected: {reason}")

    def next(self, wanted: str) -> str:
        """The next of what came that begins with `wanted`; what came before it is dropped."""
        came = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(Empty):
                came.append(self.seen.get(timeout=0.1))
                if came[-1].startswith(wanted):
                    return came[-1]
        raise AssertionError(f"no {wanted} within {PATIENCE} s, but {came}")


@contextmanager
def connected(node: Node, listener: Listener) -> Iterator[Listener]:
    """`listener` as one more plugin of the node, once it is synchronised."""
    plugin = Plugin(listener, name="listener", index="90", socket_path=str(node.containerd.nri_socket))
    thread = threading.Thread(target=plugin.run)
    thread.start()
    try:
        listener.next("synchronize")
        yield listener
    finally:
        plugin.stop()
        thread.join(PATIENCE)


def test_a_plugin_that_wants_every_event_is_kept_and_gets_those_that_the_runtime_knows(node: Node) -> None:
    # Over a bit in the event mask that it doesn't know, a runtime closes the connection.
    with connected(node, Listener()) as listener:
        pod = node.pod()
        container = pod.container(["sleep", "1000"], image=SHELL).start()
        container.stop(timeout=0)
        container.remove()
        pod.remove()
        for event in (
            "run_pod_sandbox",
            "create_container",
            "post_create_container",
            "start_container",
            "post_start_container",
            "stop_container",
            "remove_pod_sandbox",
        ):
            listener.next(event)
        assert listener.seen.empty()


def test_arguments_are_rewritten_exactly_where_the_capabilities_say_so(node: Node) -> None:
    adjust = nri_pb2.ContainerAdjustment(args=["echo", "rewritten"])
    answer = nri_pb2.CreateContainerResponse(adjust=adjust).SerializeToString()
    with connected(node, Listener(lambda: answer)) as listener:
        said = node.pod().run(["echo", "as", "asked"], image=SHELL)
        assert said.stdout == ("rewritten\n" if listener.capabilities.rewrites_args else "as asked\n")


def test_a_late_answer_costs_the_connection_and_the_adjustment_and_the_plugin_says_why(node: Node) -> None:
    adjust = nri_pb2.ContainerAdjustment(env=[nri_pb2.KeyValue(key="LATE", value="1")])

    def slowly() -> bytes:
        time.sleep(2.2)  # the runtime's request timeout is 2 s
        return nri_pb2.CreateContainerResponse(adjust=adjust).SerializeToString()

    # A plugin that validates too, which takes NRI 0.10, would make the creation fail.
    with connected(node, Listener(slowly, without=["validate_container_adjustment"])) as listener:
        assert "LATE" not in node.pod().container(["true"], image=SHELL).env
        assert "too late" in listener.next("disconnected: ")
        listener.next("synchronize")
