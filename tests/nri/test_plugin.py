"""The life of a plugin against a runtime that behaves as runtimes do, traps included (fake_runtime.py)."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from nri_flox.nri import nri_pb2
from nri_flox.nri.plugin import Ending, Handler, Plugin, RuntimeInfo, launch_from
from nri_flox.ttrpc.driver import Call, ConnectionLostError
from nri_flox.ttrpc.status import Code, StatusError
from tests.nri.fake_runtime import PATIENCE, Connection, FakeRuntime

POD = nri_pb2.PodSandbox(id="p1", name="pod", uid="u1", namespace="default")
CONTAINER = nri_pb2.Container(id="c1", pod_sandbox_id="p1", name="main")


class Recorder(Handler):
    """A handler that notes what it is told, in order."""

    def __init__(self) -> None:
        self.seen: Queue[tuple[str, Any]] = Queue()
        self.answer = b""
        self.refusal: StatusError | None = None
        self.update: nri_pb2.ContainerUpdate | None = None
        self.create: Callable[[], None] = lambda: None

    def configure(self, runtime: RuntimeInfo, config: str) -> None:
        self.seen.put(("configure", (runtime, config)))
        if self.refusal:
            raise self.refusal

    def synchronize(
        self, pods: Iterable[nri_pb2.PodSandbox], containers: Iterable[nri_pb2.Container], more: bool
    ) -> Iterable[nri_pb2.ContainerUpdate] | None:
        self.seen.put(("synchronize", ([pod.id for pod in pods], [c.id for c in containers], more)))
        return [self.update] if self.update else None

    def registered(self) -> None:
        self.seen.put(("registered", None))

    def disconnected(self, reason: str) -> None:
        self.seen.put(("disconnected", reason))

    def shutdown(self, reason: str) -> None:
        self.seen.put(("shutdown", reason))

    def run_pod_sandbox(self, pod: nri_pb2.PodSandbox) -> None:
        self.seen.put(("run_pod_sandbox", pod.id))

    def create_container(self, pod: nri_pb2.PodSandbox, container: nri_pb2.Container, _call: Call) -> bytes:
        self.seen.put(("create_container", (pod.id, container.id)))
        self.create()
        if self.refusal:
            raise self.refusal
        return self.answer

    def remove_container(self, pod: nri_pb2.PodSandbox, container: nri_pb2.Container) -> None:
        self.seen.put(("remove_container", (pod.id, container.id)))

    def next(self, name: str) -> Any:
        """What came with the next event of this name; others on the way are dropped."""
        while True:
            seen, detail = self.seen.get(timeout=PATIENCE)
            if seen == name:
                return detail

    def all(self) -> list[str]:
        """The names of everything seen and not yet taken."""
        return [self.seen.get()[0] for _ in range(self.seen.qsize())]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    fake = FakeRuntime(tmp_path / "nri.sock")
    yield fake
    fake.stop()


class Running:
    """A plugin on a thread of its own."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.endings: list[Ending] = []
        self.thread = threading.Thread(target=lambda: self.endings.append(plugin.run()))
        self.thread.start()

    def ending(self) -> Ending:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the plugin did not end"
        return self.endings[0]


Start = Callable[..., Running]


@pytest.fixture
def start(runtime: FakeRuntime) -> Iterator[Start]:
    """Start a plugin for the runtime; it is stopped after the test."""
    started: list[Running] = []

    def start(handler: Handler, **options: object) -> Running:
        arguments: dict[str, object] = {"name": "flox", "index": "50", "socket_path": str(runtime.path)}
        started.append(Running(Plugin(handler, **(arguments | options))))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for running in started:
        running.plugin.stop()
        running.ending()


def create(connection: Connection, timeout: float = 2.0) -> nri_pb2.CreateContainerResponse:
    request = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
    return connection.call("CreateContainer", request, nri_pb2.CreateContainerResponse, timeout)


# Registration and configuration.


def test_plugin_registers_under_its_name_and_index(runtime: FakeRuntime, start: Start) -> None:
    start(Recorder())
    registration = runtime.accept().accept_registration()
    assert (registration.plugin_name, registration.plugin_idx) == ("flox", "50")
    assert registration.NRI_version == "v0.12.0"


def test_handler_learns_the_runtime_and_its_configuration(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    runtime.connected(
        "containerd",
        "2.3.0",
        config="log.level = 'debug'",
        NRI_version="v0.12.0",
        request_timeout=1500,
        registration_timeout=7000,
    )
    info, config = handler.next("configure")
    assert (info.name, info.version, info.nri_version) == ("containerd", "2.3.0", "v0.12.0")
    assert (info.request_timeout, info.registration_timeout) == (1.5, 7.0)
    assert info.capabilities.rewrites_args
    assert config == "log.level = 'debug'"


def test_runtime_that_does_not_tell_its_timeouts_has_the_defaults(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    runtime.connected("containerd", "1.7.24~ds1")
    info, _ = handler.next("configure")
    assert (info.request_timeout, info.registration_timeout) == (2.0, 5.0)
    assert info.capabilities.nri == (0, 6, 1)


def test_only_events_with_a_method_are_subscribed(runtime: FakeRuntime, start: Start) -> None:
    start(Recorder())
    connection = runtime.connected()
    assert connection.events == {nri_pb2.RUN_POD_SANDBOX, nri_pb2.CREATE_CONTAINER, nri_pb2.REMOVE_CONTAINER}


def test_runtime_is_told_what_to_do_when_the_plugin_fails(runtime: FakeRuntime, start: Start) -> None:
    start(Recorder(), failure_policy=nri_pb2.FailurePolicy(fail_request=True))
    assert runtime.connected().failure_policy.fail_request


class PodUpdates(Recorder):
    def update_pod_sandbox(
        self, pod: nri_pb2.PodSandbox, overhead: nri_pb2.LinuxResources, resources: nri_pb2.LinuxResources
    ) -> None:
        self.seen.put(("update_pod_sandbox", (pod.id, overhead.cpu.cpus, resources.cpu.cpus)))


@pytest.mark.parametrize(("version", "last_event"), [("1.7.24", 11), ("2.1.9+unknown", 11), ("2.2.0", 14)])
def test_events_the_runtime_does_not_know_are_not_subscribed(
    runtime: FakeRuntime, start: Start, version: str, last_event: int
) -> None:
    runtime.last_event = last_event
    start(PodUpdates())
    connection = runtime.connected("containerd", version)  # fails when the plugin is dropped
    assert (nri_pb2.UPDATE_POD_SANDBOX in connection.events) is (last_event == 14)


def test_runtime_without_any_wanted_event_is_refused_rather_than_asked_for_all(
    runtime: FakeRuntime, start: Start
) -> None:
    class Validator(Recorder):
        run_pod_sandbox = create_container = remove_container = None  # type: ignore[assignment]

        def validate_container_adjustment(
            self, _request: nri_pb2.ValidateContainerAdjustmentRequest, _call: Call
        ) -> bytes:
            return b""

    start(Validator())
    connection = runtime.accept()
    connection.accept_registration()
    with pytest.raises(StatusError, match=r"containerd 1\.7\.24 \(NRI 0\.6\) has none of the events"):
        connection.configure("containerd", "1.7.24")


def test_refused_configuration_is_the_reason_of_the_loss(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    handler.refusal = StatusError(Code.INVALID_ARGUMENT, "unknown key log.levle")
    start(handler)
    connection = runtime.accept()
    connection.accept_registration()
    with pytest.raises(StatusError, match="unknown key"):
        connection.configure()
    connection.close()
    assert handler.next("disconnected") == (
        "the plugin refused its configuration: unknown key log.levle (INVALID_ARGUMENT)"
    )


def test_answer_to_the_registration_may_come_after_configure(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.accept()
    registration = connection.request()
    connection.configure()
    connection.synchronize()
    connection.answer(registration, nri_pb2.Empty())
    handler.next("registered")
    assert handler.all() == []


def test_refused_registration_is_the_reason_of_the_loss(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.accept()
    connection.refuse(connection.request(), Code.UNKNOWN, "invalid plugin index")
    assert handler.next("disconnected") == "the runtime refused the registration: invalid plugin index"
    runtime.accept()  # and it tries again


@pytest.mark.parametrize(
    ("name", "index"), [("", "50"), ("fl/ox", "50"), ("flöx", "50"), ("flox", "5"), ("flox", "a1"), ("flox", "٣٣")]
)
def test_identity_that_no_runtime_takes_is_refused(name: str, index: str) -> None:
    with pytest.raises(ValueError, match=r"plugin (name|index)"):
        Plugin(Recorder(), name=name, index=index)


def test_handler_without_events_is_refused() -> None:
    class Idle(Recorder):
        run_pod_sandbox = create_container = remove_container = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="no method for any event"):
        Plugin(Idle(), name="flox", index="50")


# Synchronisation.


def pods(*ids: str) -> list[nri_pb2.PodSandbox]:
    return [nri_pb2.PodSandbox(id=i) for i in ids]


def containers(*ids: str) -> list[nri_pb2.Container]:
    return [nri_pb2.Container(id=i) for i in ids]


def test_split_synchronisation_is_echoed_and_handed_on_part_by_part(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.accept()
    connection.accept_registration()
    connection.configure()
    connection.synchronize(
        (pods("p1", "p2"), containers("c1")), (pods("p3"), containers("c2", "c3")), ([], containers("c4"))
    )
    assert handler.next("synchronize") == (["p1", "p2"], ["c1"], True)
    assert handler.next("synchronize") == (["p3"], ["c2", "c3"], True)
    assert handler.next("synchronize") == ([], ["c4"], False)


def test_synchronisation_can_be_answered_with_updates(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    handler.update = nri_pb2.ContainerUpdate(container_id="c1", ignore_failure=True)
    start(handler)
    connection = runtime.accept()
    connection.accept_registration()
    connection.configure()
    assert connection.synchronize((pods("p1"), containers("c1"))) == [handler.update]


# Events.


@pytest.mark.parametrize("size", [0, 100, 4070, 4080, 4083, 4084, 4090, 4096, 8000, 100_000, 4_000_000])
def test_answer_of_any_size_is_read_by_a_go_runtime(runtime: FakeRuntime, start: Start, size: int) -> None:
    handler = Recorder()
    mount = nri_pb2.Mount(destination="/nix/store", source="/" + "x" * size)
    answer = nri_pb2.CreateContainerResponse(adjust=nri_pb2.ContainerAdjustment(mounts=[mount]))
    handler.answer = answer.SerializeToString()
    start(handler)
    connection = runtime.connected()
    assert create(connection) == answer
    assert create(connection) == answer


def test_refusal_carries_the_handlers_text(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.connected()
    handler.refusal = StatusError(Code.FAILED_PRECONDITION, "flox: not today")
    with pytest.raises(StatusError, match="flox: not today") as raised:
        create(connection)
    assert raised.value.code == Code.FAILED_PRECONDITION


def test_crash_of_the_handler_is_reported_and_the_connection_lives(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    errors: list[tuple[str, Exception]] = []
    start(handler, on_error=lambda *error: errors.append(error))
    connection = runtime.connected()
    handler.answer = None  # type: ignore[assignment]
    with pytest.raises(StatusError, match="internal error: TypeError"):
        create(connection)
    handler.answer = b""
    create(connection)
    assert [where for where, _ in errors] == ["nri.pkg.api.v1alpha1.Plugin/CreateContainer"]


@pytest.mark.parametrize("style", ["StateChange", "own methods"])
def test_events_arrive_in_both_styles(runtime: FakeRuntime, start: Start, style: str) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.connected()
    if style == "StateChange":
        ran = nri_pb2.StateChangeEvent(event=nri_pb2.RUN_POD_SANDBOX, pod=POD)
        removed = nri_pb2.StateChangeEvent(event=nri_pb2.REMOVE_CONTAINER, pod=POD, container=CONTAINER)
        connection.call("StateChange", ran, nri_pb2.Empty)
        connection.call("StateChange", removed, nri_pb2.Empty)
    else:
        connection.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD), nri_pb2.RunPodSandboxResponse)
        request = nri_pb2.RemoveContainerRequest(pod=POD, container=CONTAINER)
        connection.call("RemoveContainer", request, nri_pb2.RemoveContainerResponse)
    assert handler.next("run_pod_sandbox") == "p1"
    assert handler.next("remove_container") == ("p1", "c1")


class Everything(PodUpdates):
    """Has a method for every event."""

    def _note(self, *arguments: object) -> bytes:
        self.seen.put(("event", len(arguments)))
        return b""

    stop_pod_sandbox = remove_pod_sandbox = post_update_pod_sandbox = _note
    post_create_container = start_container = post_start_container = post_update_container = _note
    update_container = stop_container = validate_container_adjustment = _note


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("StopPodSandbox", 1),
        ("RemovePodSandbox", 1),
        ("PostUpdatePodSandbox", 1),
        ("PostCreateContainer", 2),
        ("StartContainer", 2),
        ("PostStartContainer", 2),
        ("PostUpdateContainer", 2),
        ("StopContainer", 3),
        ("UpdateContainer", 4),
        ("ValidateContainerAdjustment", 2),
    ],
)
def test_every_event_reaches_its_method(runtime: FakeRuntime, start: Start, method: str, arguments: int) -> None:
    handler = Everything()
    start(handler)
    connection = runtime.connected()
    assert connection.events == set(range(1, 15))
    request = getattr(nri_pb2, f"{method}Request")(pod=POD)
    connection.call(method, request, getattr(nri_pb2, f"{method}Response"))
    assert handler.next("event") == arguments


def test_pod_update_brings_overhead_and_resources(runtime: FakeRuntime, start: Start) -> None:
    handler = PodUpdates()
    start(handler)
    request = nri_pb2.UpdatePodSandboxRequest(pod=POD)
    request.overhead_linux_resources.cpu.cpus = "0"
    request.linux_resources.cpu.cpus = "1-3"
    runtime.connected().call("UpdatePodSandbox", request, nri_pb2.UpdatePodSandboxResponse)
    assert handler.next("update_pod_sandbox") == ("p1", "0", "1-3")


@pytest.mark.parametrize("method", ["FromTheFuture", "StopPodSandbox"])
def test_unknown_or_unwanted_method_is_unimplemented(runtime: FakeRuntime, start: Start, method: str) -> None:
    start(Recorder())
    connection = runtime.connected()
    with pytest.raises(StatusError) as raised:
        connection.call(method, nri_pb2.Empty(), nri_pb2.Empty)
    assert int(raised.value.code) == 12
    create(connection)


@pytest.mark.parametrize("event", [nri_pb2.STOP_POD_SANDBOX, nri_pb2.CREATE_CONTAINER, 99])
def test_unwanted_state_change_is_answered(runtime: FakeRuntime, start: Start, event: nri_pb2.Event) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.connected()
    handler.all()
    change = nri_pb2.StateChangeEvent(event=event, pod=POD, container=CONTAINER)
    connection.call("StateChange", change, nri_pb2.Empty)
    assert handler.all() == []


def test_shutdown_is_announced_and_is_the_reason_of_the_loss(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    connection = runtime.connected()
    connection.call("Shutdown", nri_pb2.Empty(), nri_pb2.Empty)
    handler.next("shutdown")
    connection.close()
    assert handler.next("disconnected") == "the runtime has shut down"


# Calls to the runtime.


def test_containers_can_be_updated_from_another_thread(runtime: FakeRuntime, start: Start) -> None:
    running = start(Recorder())
    connection = runtime.connected()
    wanted = [nri_pb2.ContainerUpdate(container_id=f"c{number}") for number in range(2)]
    failed: list[nri_pb2.ContainerUpdate] = []
    thread = threading.Thread(target=lambda: failed.extend(running.plugin.update_containers(wanted)))
    thread.start()
    request = connection.request()
    connection.answer(request, nri_pb2.UpdateContainersResponse(failed=wanted[1:]))
    thread.join(PATIENCE)
    assert request.method == "UpdateContainers"
    assert list(nri_pb2.UpdateContainersRequest.FromString(request.payload).update) == wanted
    assert failed == wanted[1:]


def test_containers_cannot_be_updated_without_a_connection() -> None:
    plugin = Plugin(Recorder(), name="flox", index="50")
    with pytest.raises(ConnectionLostError, match="not connected"):
        plugin.update_containers([])


# Losses and returns.


def test_plugin_returns_after_a_loss(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    runtime.connected().close()
    assert handler.next("disconnected") == "the runtime closed the connection"
    create(runtime.connected())
    handler.next("create_container")


def test_plugin_returns_to_a_runtime_that_was_restarted(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    runtime.connected()
    runtime.stop()
    handler.next("disconnected")
    reason = handler.next("disconnected")
    assert reason == f"cannot connect to {runtime.path}: No such file or directory"
    time.sleep(0.5)  # several looks for the socket
    assert handler.all() == []
    runtime.listen()
    create(runtime.connected())


def test_plugin_waits_for_a_runtime_that_is_not_there_yet(runtime: FakeRuntime, start: Start) -> None:
    runtime.stop()
    handler = Recorder()
    start(handler)
    handler.next("disconnected")
    runtime.listen()
    runtime.connected()


def test_protocol_fault_of_the_runtime_is_told_as_such(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    start(handler)
    runtime.connected().socket.sendall(bytes.fromhex("00000002 0000000a 00000000 00000063 02 00"))
    assert handler.next("disconnected").startswith("the runtime broke the protocol: ")
    runtime.connected()


def test_answer_that_came_too_late_is_the_reason_of_the_loss(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    handler.create = lambda: time.sleep(0.1)
    start(handler)
    connection = runtime.connected()
    connection.post("CreateContainer", nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER), timeout=0.02)
    handler.next("create_container")
    connection.close()  # which is all that a runtime says
    reason = handler.next("disconnected")
    assert reason == "the runtime closed the connection: an answer to CreateContainer had come too late"


def test_pauses_grow_until_a_connection_was_good(
    runtime: FakeRuntime, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: Queue[float] = Queue()
    monkeypatch.setattr(Plugin, "_sleep", lambda _plugin, seconds: pauses.put(seconds))
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    start(Recorder())
    for _ in range(9):
        runtime.accept().close()
    assert [pauses.get(timeout=PATIENCE) for _ in range(9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    runtime.connected().close()
    assert pauses.get(timeout=PATIENCE) == 0.1


# Ends.


def test_stop_ends_a_connected_plugin(runtime: FakeRuntime, start: Start) -> None:
    handler = Recorder()
    running = start(handler)
    connection = runtime.connected()
    handler.next("synchronize")
    begin = time.monotonic()
    running.plugin.stop()
    assert running.ending() is Ending.STOPPED
    assert time.monotonic() - begin < 1
    assert connection.socket.recv(1) == b""
    assert "disconnected" not in handler.all(), "a stop that was asked for is no loss"


def test_stop_ends_a_plugin_that_waits_for_its_runtime(runtime: FakeRuntime, start: Start) -> None:
    runtime.stop()
    handler = Recorder()
    running = start(handler)
    handler.next("disconnected")
    begin = time.monotonic()
    running.plugin.stop()
    assert running.ending() is Ending.STOPPED
    assert time.monotonic() - begin < 0.15


def test_stop_may_come_from_a_signal_handler(runtime: FakeRuntime) -> None:
    plugin = Plugin(Recorder(), name="flox", index="50", socket_path=str(runtime.path))
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: plugin.stop())
    try:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        assert plugin.run() is Ending.STOPPED  # on the main thread, where signal handlers run
    finally:
        signal.signal(signal.SIGUSR1, before)


# Plugins that the runtime launches.


def test_launched_plugin_serves_its_inherited_socket_and_ends_with_it(start: Start) -> None:
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    launch = launch_from(
        {
            "NRI_PLUGIN_SOCKET": str(theirs.detach()),
            "NRI_PLUGIN_NAME": "flox",
            "NRI_PLUGIN_IDX": "50",
        }
    )
    assert launch is not None
    assert not launch.connection.get_inheritable()
    handler = Recorder()
    running = start(handler, name=launch.name, index=launch.index, connection=launch.connection)
    connection = Connection(ours, last_event=14)
    connection.accept_registration()
    connection.configure(config="drop-in")
    connection.synchronize()
    create(connection)
    connection.close()
    assert running.ending() is Ending.RUNTIME_GONE
    assert handler.next("disconnected") == "the runtime closed the connection"


def test_stopped_launched_plugin_says_so(start: Start) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        running = start(Recorder(), connection=theirs)
        Connection(ours, last_event=14).accept_registration()
        running.plugin.stop()
        assert running.ending() is Ending.STOPPED


def test_plugin_started_otherwise_was_not_launched() -> None:
    assert launch_from({"PATH": "/bin"}) is None


@pytest.mark.parametrize("value", ["", "three", "987654", "-1"])
def test_wrong_socket_in_the_environment_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match="NRI_PLUGIN_SOCKET="):
        launch_from({"NRI_PLUGIN_SOCKET": value})


def test_file_in_place_of_the_socket_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ValueError, match="not the number of an open socket"):
        launch_from({"NRI_PLUGIN_SOCKET": str(file.fileno())})
