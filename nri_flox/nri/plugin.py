"""A plugin's life: connect, register, be configured and synchronised, answer events, come back after a loss.

`Plugin` does what Go's stub does, and does not end with its connection: pods that are created while a plugin
is away run without it, so it returns as soon as there is a runtime to return to. What the plugin is *for* is
in the handler, whose methods say which events it gets.
"""

import os
import random
import select
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, Protocol

from nri_flox.ttrpc.driver import (
    Call,
    Cause,
    Client,
    ConnectionLostError,
    Driver,
    End,
    LateAnswerError,
    Service,
)
from nri_flox.ttrpc.status import Code, StatusError

from . import nri_pb2
from .capabilities import Capabilities

NRI_VERSION = "v0.12.0"
"""The newest NRI whose messages this plugin understands, told to the runtime."""

DEFAULT_SOCKET = "/var/run/nri/nri.sock"

_PLUGIN_CONNECTION = 1  # the plugin serves
_RUNTIME_CONNECTION = 2  # the plugin calls
_PLUGIN_SERVICE = "nri.pkg.api.v1alpha1.Plugin"
_RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"

# What a runtime before NRI 0.7, which does not tell, uses by default; in seconds.
_REQUEST_TIMEOUT = 2.0
_REGISTRATION_TIMEOUT = 5.0

_ABSENT_PAUSE = 0.2  # seconds between looks for a socket on which nobody listens; a look costs microseconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds, after a connection that broke


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What the runtime says of itself when it configures the plugin. Timeouts in seconds."""

    name: str
    version: str
    nri_version: str
    capabilities: Capabilities
    request_timeout: float
    registration_timeout: float


class Handler(Protocol):
    """What every plugin does. It gets an event by having one more method, named after it:

    - `run_pod_sandbox`, `stop_pod_sandbox`, `remove_pod_sandbox`, `post_update_pod_sandbox`: `(pod) -> None`
    - `update_pod_sandbox`: `(pod, overhead_resources, resources) -> None`
    - `post_create_container`, `start_container`, `post_start_container`, `post_update_container`,
      `remove_container`: `(pod, container) -> None`
    - `create_container`, `stop_container`: `(pod, container, call) -> bytes`, the serialised response message
    - `update_container`: `(pod, container, resources, call) -> bytes`
    - `validate_container_adjustment`: `(request, call) -> bytes`

    An event that the runtime does not know is not subscribed to. A StatusError from one of these methods
    makes the runtime's request fail with that text. All methods are called on the thread of `Plugin.run`;
    while one runs, the runtime creates no container on the whole node, and after `request_timeout` it drops
    the plugin.
    """

    def configure(self, runtime: RuntimeInfo, config: str) -> None:
        """Take the runtime's configuration; `config` is the drop-in file's text, empty for most plugins.

        A StatusError refuses it, upon which the runtime closes the connection.
        """

    def synchronize(
        self,
        pods: Iterable[nri_pb2.PodSandbox],
        containers: Iterable[nri_pb2.Container],
        more: bool,
    ) -> Iterable[nri_pb2.ContainerUpdate] | None:
        """Take what the runtime runs already, in one or more parts, the last with `more` False.

        Always after `configure`. Only the last part may be answered with updates.
        """

    def registered(self) -> None:
        """Learn that the runtime has accepted the registration; can come after `configure`."""

    def disconnected(self, reason: str) -> None:
        """Learn why, for people, the connection is lost, or that none can be had; the latter once."""

    def shutdown(self, reason: str) -> None:
        """Learn that the runtime is about to go."""


class Ending(Enum):
    """Why `Plugin.run` returned."""

    STOPPED = "stopped"
    """`Plugin.stop` was called."""
    RUNTIME_GONE = "runtime gone"
    """The runtime that launched the plugin closed the connection: there is nothing to return to."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a runtime launched this process as its plugin."""

    name: str
    index: str
    connection: socket


class LaunchError(ValueError):
    """The environment names something that is no socket; the text says what."""


def launch_from(environ: Mapping[str, str]) -> Launch | None:
    """Return how a runtime launched this process, or None when it did not.

    The inherited socket is taken over once, and no child process inherits it again. Raises LaunchError.
    """
    if "NRI_PLUGIN_SOCKET" not in environ:
        return None
    text = environ["NRI_PLUGIN_SOCKET"]
    try:
        descriptor = int(text)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise ValueError
        connection = socket(fileno=descriptor)
    except (ValueError, OverflowError, OSError):
        raise LaunchError(f"NRI_PLUGIN_SOCKET={text} is not the number of an open socket") from None
    connection.set_inheritable(False)
    return Launch(environ.get("NRI_PLUGIN_NAME", ""), environ.get("NRI_PLUGIN_IDX", ""), connection)


class Plugin:
    """One plugin and its connection, which comes and goes.

    `name` is made of letters, digits and `-_.+`; `index` is two digits. With `connection` the plugin was
    launched by the runtime and `socket_path` is not used. `on_error` is told of failures inside the handler,
    as ("Service/Method", exception), after the runtime has got its answer. `failure_policy` says what a runtime
    that knows of it (NRI 0.12.5) does with requests that this plugin does not answer. Raises ValueError for a name or
    index that no runtime takes, and for a handler without any event.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        name: str,
        index: str,
        socket_path: str = DEFAULT_SOCKET,
        connection: socket | None = None,
        on_error: Callable[[str, Exception], None] = lambda _where, _error: None,
        failure_policy: nri_pb2.FailurePolicy | None = None,
    ) -> None:
        if not name or not all(c.isascii() and (c.isalnum() or c in "-_.+") for c in name):
            raise ValueError(f"the plugin name {name!r} is not made of letters, digits and any of -_.+")
        if not (len(index) == 2 and index.isascii() and index.isdigit()):
            raise ValueError(f"the plugin index {index!r} is not two digits")
        self._handler = handler
        self._name = name
        self._index = index
        self._socket_path = socket_path
        self._inherited = connection
        self._report = on_error
        self._failure_policy = failure_policy
        self._by_event = _by_event(handler)
        if not self._by_event:
            raise ValueError("the handler has no method for any event")
        self._services = {_PLUGIN_SERVICE: self._methods()}
        self._stopped = False
        # Wakes the pause between two connections; unlike a lock, it may be used in a signal handler.
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._driver: Driver | None = None
        self._client: Client | None = None
        self._request_timeout = _REQUEST_TIMEOUT
        self._synchronized = False
        self._explanation = ""  # why the connection will be lost, where we know what the runtime will not say

    # Life.

    def run(self) -> Ending:
        """Serve the runtime until `stop`, through as many connections as it takes."""
        if self._inherited is not None:
            self._connected(self._inherited)
            return Ending.STOPPED if self._stopped else Ending.RUNTIME_GONE
        pause = _FIRST_PAUSE
        told = False  # that nobody listens
        while not self._stopped:
            connection = socket(AF_UNIX, SOCK_STREAM)
            # A runtime that accepts nobody must not hold us where `stop` cannot reach.
            connection.setblocking(False)
            try:
                connection.connect(self._socket_path)
            except OSError as error:
                connection.close()
                if not told:
                    self._handler.disconnected(f"cannot connect to {self._socket_path}: {error.strerror}")
                    told = True
                self._sleep(_ABSENT_PAUSE)
                continue
            told = False
            self._connected(connection)
            if self._synchronized:
                pause = _FIRST_PAUSE
            self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads nodes, guards nothing
            pause = min(pause * 2, _LONGEST_PAUSE)
        return Ending.STOPPED

    def stop(self) -> None:
        """End `run` soon, from any thread or a signal handler. Requests that have come are still answered."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)
        if (driver := self._driver) is not None:
            driver.stop()

    def _sleep(self, seconds: float) -> None:
        select.select([self._wake], [], [], seconds)

    def _connected(self, connection: socket) -> None:
        """Serve one connection to its end."""
        self._synchronized = False
        self._explanation = ""
        self._request_timeout = _REQUEST_TIMEOUT
        with connection:
            driver = Driver(connection, on_error=self._failed)
            driver.serve(_PLUGIN_CONNECTION, self._services)
            self._client = driver.client(_RUNTIME_CONNECTION)
            self._driver = driver
            if self._stopped:  # `stop` may have come before there was a driver to stop
                driver.stop()
            try:
                self._register(self._client)
                end = driver.run()
            except ConnectionLostError as error:
                end = End(Cause.CLOSED, str(error))
            finally:
                self._driver = self._client = None
        if not self._stopped:
            seen = end.text.replace("the peer", "the runtime")
            certain = end.cause in (Cause.FAULT, Cause.STALLED)
            self._handler.disconnected(seen if certain else self._explanation or seen)

    def _register(self, client: Client) -> None:
        request = nri_pb2.RegisterPluginRequest(plugin_name=self._name, plugin_idx=self._index, NRI_version=NRI_VERSION)

        def done(result: bytes | Exception) -> None:
            if isinstance(result, StatusError):
                self._explanation = f"the runtime refused the registration: {result.message}"
                if (driver := self._driver) is not None:
                    driver.stop()
            elif isinstance(result, bytes):
                self._handler.registered()

        # Without a timeout of ours: the runtime takes its plugins one by one, and knows how long it has.
        client.start(_RUNTIME_SERVICE, "RegisterPlugin", request.SerializeToString(), done)

    def _failed(self, where: str, error: Exception) -> None:
        if isinstance(error, LateAnswerError):
            # The runtime closes the connection over this and does not say so.
            method = where.rpartition("/")[2]
            self._explanation = f"the runtime closed the connection: an answer to {method} had come too late"
        self._report(where, error)

    # Calls to the runtime.

    def update_containers(
        self,
        updates: Iterable[nri_pb2.ContainerUpdate],
        evictions: Iterable[nri_pb2.ContainerEviction] = (),
    ) -> list[nri_pb2.ContainerUpdate]:
        """Change resources of containers that run already; return the updates that failed.

        Not for `run`'s own thread, which would wait for itself. Raises ConnectionLostError while there is no
        connection, StatusError when the runtime refuses or takes longer than its own request timeout.
        """
        if (client := self._client) is None:
            raise ConnectionLostError("not connected to a runtime")
        request = nri_pb2.UpdateContainersRequest(update=updates, evict=evictions)
        answer = client.call(
            _RUNTIME_SERVICE, "UpdateContainers", request.SerializeToString(), timeout=self._request_timeout
        )
        return list(nri_pb2.UpdateContainersResponse.FromString(answer).failed)

    # Requests of the runtime.

    def _configure(self, payload: bytes, _call: Call) -> bytes:
        request = nri_pb2.ConfigureRequest.FromString(payload)
        capabilities = Capabilities.of(request.runtime_name, request.runtime_version, request.NRI_version)
        self._request_timeout = request.request_timeout / 1000 or _REQUEST_TIMEOUT
        runtime = RuntimeInfo(
            name=request.runtime_name,
            version=request.runtime_version,
            nri_version=request.NRI_version,
            capabilities=capabilities,
            request_timeout=self._request_timeout,
            registration_timeout=request.registration_timeout / 1000 or _REGISTRATION_TIMEOUT,
        )
        known = self._by_event.keys() & capabilities.events
        try:
            if not known:  # an empty mask would subscribe to everything
                text = f"{capabilities} has none of the events that this plugin needs"
                raise StatusError(Code.FAILED_PRECONDITION, text)
            self._handler.configure(runtime, request.config)
        except Exception as error:
            self._explanation = f"the plugin refused its configuration: {error}"
            raise
        mask = sum(1 << (event - 1) for event in known)
        answer = nri_pb2.ConfigureResponse(events=mask, failure_policy=self._failure_policy)
        return answer.SerializeToString()

    def _synchronize(self, payload: bytes, _call: Call) -> bytes:
        request = nri_pb2.SynchronizeRequest.FromString(payload)
        updates = self._handler.synchronize(request.pods, request.containers, request.more)
        if not request.more:
            self._synchronized = True
        return nri_pb2.SynchronizeResponse(update=updates, more=request.more).SerializeToString()

    def _shutdown(self, _payload: bytes, _call: Call) -> bytes:
        self._explanation = "the runtime has shut down"
        self._handler.shutdown("the runtime shuts down")
        return b""

    def _state_change(self, payload: bytes, _call: Call) -> bytes:
        change = nri_pb2.StateChangeEvent.FromString(payload)
        # What was not subscribed to does not come, and if it did, an event is nothing that could be refused.
        if (handle := self._by_event.get(change.event)) is not None:
            if change.event in _POD_EVENTS:
                handle(change.pod)
            elif change.event in _CONTAINER_EVENTS:
                handle(change.pod, change.container)
        return b""

    def _methods(self) -> Service:
        """The handlers of all requests this plugin takes. Any other gets UNIMPLEMENTED from the driver."""
        methods: dict[str, Callable[[bytes, Call], bytes]] = {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "Shutdown": self._shutdown,
            "StateChange": self._state_change,
        }
        for event, handle in self._by_event.items():
            method = _METHODS[event]
            methods[method] = _adapter(event, getattr(nri_pb2, f"{method}Request").FromString, handle)
        return methods


_METHODS: Mapping[int, str] = {
    number: "".join(word.capitalize() for word in name.split("_"))
    for name, number in nri_pb2.Event.items()
    if nri_pb2.UNKNOWN < number < nri_pb2.LAST
}

# Events of these two sets come as StateChange up to NRI 0.11, and from then on by methods of their own.
_POD_EVENTS = frozenset(
    (
        nri_pb2.RUN_POD_SANDBOX,
        nri_pb2.STOP_POD_SANDBOX,
        nri_pb2.REMOVE_POD_SANDBOX,
        nri_pb2.POST_UPDATE_POD_SANDBOX,
    )
)

_CONTAINER_EVENTS = frozenset(
    (
        nri_pb2.POST_CREATE_CONTAINER,
        nri_pb2.START_CONTAINER,
        nri_pb2.POST_START_CONTAINER,
        nri_pb2.POST_UPDATE_CONTAINER,
        nri_pb2.REMOVE_CONTAINER,
    )
)


def _by_event(handler: Handler) -> dict[int, Callable[..., Any]]:
    methods = {event: getattr(handler, name.lower(), None) for name, event in nri_pb2.Event.items()}
    return {event: method for event, method in methods.items() if event in _METHODS and method is not None}


def _adapter(event: int, parse: Callable[[bytes], Any], handle: Callable[..., Any]) -> Callable[[bytes, Call], bytes]:
    """Return what turns a request's bytes into the handler's arguments, and its result into bytes."""

    def pod(payload: bytes, _call: Call) -> bytes:
        handle(parse(payload).pod)
        return b""

    def container(payload: bytes, _call: Call) -> bytes:
        request = parse(payload)
        handle(request.pod, request.container)
        return b""

    def update_pod(payload: bytes, _call: Call) -> bytes:
        request = parse(payload)
        handle(request.pod, request.overhead_linux_resources, request.linux_resources)
        return b""

    def create_or_stop(payload: bytes, call: Call) -> bytes:
        request = parse(payload)
        answer: bytes = handle(request.pod, request.container, call)
        return answer

    def update(payload: bytes, call: Call) -> bytes:
        request = parse(payload)
        answer: bytes = handle(request.pod, request.container, request.linux_resources, call)
        return answer

    def validate(payload: bytes, call: Call) -> bytes:
        answer: bytes = handle(parse(payload), call)
        return answer

    if event in _POD_EVENTS:
        return pod
    if event in _CONTAINER_EVENTS:
        return container
    others: dict[int, Callable[[bytes, Call], bytes]] = {
        nri_pb2.UPDATE_POD_SANDBOX: update_pod,
        nri_pb2.CREATE_CONTAINER: create_or_stop,
        nri_pb2.STOP_CONTAINER: create_or_stop,
        nri_pb2.UPDATE_CONTAINER: update,
        nri_pb2.VALIDATE_CONTAINER_ADJUSTMENT: validate,
    }
    return others[event]
