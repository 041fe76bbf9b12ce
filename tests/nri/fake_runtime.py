"""A runtime that treats its plugins as the runtimes do, their traps included: see the class."""

import socket
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from struct import unpack
from typing import TypeVar

from google.protobuf.message import Message

from nri_flox.nri import nri_pb2
from nri_flox.ttrpc.connection import ClientConnection, Request, ServerConnection
from nri_flox.ttrpc.mux import frame
from nri_flox.ttrpc.status import Code, StatusError

PATIENCE = 5.0  # seconds for what should come at once
PLUGIN, RUNTIME = 1, 2  # connection ids
PLUGIN_SERVICE = "nri.pkg.api.v1alpha1.Plugin"

M = TypeVar("M", bound=Message)


class GoStream:
    """Reads one multiplexed connection as Go does: through a buffer of 4096 bytes, a frame at a time.

    A frame goes to whoever reads at the moment, whole or not at all: bufio's buffer of 4096 bytes, or, for a
    read of at least that size while the buffer is empty, the reader's own memory. A frame that does not fit
    fails the read with ENOMEM, and the runtime drops the plugin.
    """

    BUFFER = 4096

    def __init__(self, next_frame: Callable[[], bytes]) -> None:
        self._next_frame = next_frame
        self._buffer = b""

    def read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            if not self._buffer:
                wanted = size - len(got)
                room = max(wanted, self.BUFFER)
                self._buffer = self._next_frame()
                if len(self._buffer) > room:
                    raise OSError(f"ENOMEM: a frame of {len(self._buffer)} bytes for a buffer of {room}")
            taken = self._buffer[: size - len(got)]
            self._buffer = self._buffer[len(taken) :]
            got += taken
        return got

    def message(self) -> bytes:
        """One ttrpc message with its header."""
        header = self.read(10)
        (length,) = unpack(">I", header[:4])
        return header + self.read(length)


class Connection:
    """The runtime's end of one plugin's connection. Each method is a step of its life; a test chooses the
    order.

    A method that waits for the plugin raises EOFError when the plugin has closed the connection.
    """

    def __init__(self, sock: socket.socket, last_event: int) -> None:
        sock.settimeout(PATIENCE)
        self.socket = sock
        self.events: frozenset[int] = frozenset()
        self._last_event = last_event
        self._frames: defaultdict[int, deque[bytes]] = defaultdict(deque)
        self._streams = {number: GoStream(lambda n=number: self._frame(n)) for number in (PLUGIN, RUNTIME)}  # type: ignore[misc]
        self._calls = ClientConnection()
        self._served = ServerConnection()

    def _frame(self, connection_id: int) -> bytes:
        while not self._frames[connection_id]:
            number, length = unpack(">II", self._exactly(8))
            self._frames[number].append(self._exactly(length))
        return self._frames[connection_id].popleft()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.socket.recv(size - len(data))
            if not chunk:
                raise EOFError("the plugin has closed the connection")
            data += chunk
        return data

    def _send(self, connection_id: int, writes: list[bytes]) -> None:
        self.socket.sendall(b"".join(frame(connection_id, write) for write in writes))

    # Requests of the plugin.

    def request(self) -> Request:
        """The plugin's next request, to be answered with `answer` or `refuse`."""
        (event,) = self._served.receive_data(self._streams[RUNTIME].message())
        assert isinstance(event, Request)
        return event

    def answer(self, request: Request, message: Message) -> None:
        self._send(RUNTIME, self._served.send_response(request.stream_id, message.SerializeToString()))

    def refuse(self, request: Request, code: Code, text: str) -> None:
        self._send(RUNTIME, self._served.send_error(request.stream_id, code, text))

    def accept_registration(self) -> nri_pb2.RegisterPluginRequest:
        request = self.request()
        assert request.method == "RegisterPlugin"
        self.answer(request, nri_pb2.Empty())
        return nri_pb2.RegisterPluginRequest.FromString(request.payload)

    # Requests to the plugin.

    def call(self, method: str, message: Message, answer: type[M], timeout: float = 2.0) -> M:
        """Call and wait. Raises StatusError when the plugin answers with one."""
        self.post(method, message, timeout)
        return self.result(answer)

    def post(self, method: str, message: Message, timeout: float = 2.0) -> None:
        """Call without waiting; `result` waits."""
        payload = message.SerializeToString()
        _, writes = self._calls.send_request(PLUGIN_SERVICE, method, payload, int(timeout * 1e9))
        self._send(PLUGIN, writes)

    def result(self, answer: type[M]) -> M:
        (response,) = self._calls.receive_data(self._streams[PLUGIN].message())
        if response.code != Code.OK:
            raise StatusError(response.code, response.message)
        return answer.FromString(response.payload)

    def configure(self, name: str = "containerd", version: str = "2.3.0", **fields: object) -> None:
        """Configure, and drop a plugin that subscribes to an event this runtime does not know."""
        request = nri_pb2.ConfigureRequest(runtime_name=name, runtime_version=version, **fields)  # type: ignore[arg-type]
        answer = self.call("Configure", request, nri_pb2.ConfigureResponse)
        self.failure_policy, mask = answer.failure_policy, answer.events
        # Go's adaptation takes an empty mask for all events.
        self.events = frozenset(n for n in range(1, 32) if not mask or mask >> (n - 1) & 1)
        if mask >> self._last_event:
            self.close()
            raise ValueError(f"invalid plugin events: {mask >> self._last_event << self._last_event:#x}")

    def synchronize(
        self,
        *parts: tuple[list[nri_pb2.PodSandbox], list[nri_pb2.Container]],
    ) -> list[nri_pb2.ContainerUpdate]:
        """Synchronise in parts, and drop a plugin that does not echo `more`."""
        answer = nri_pb2.SynchronizeResponse()
        for number, (pods, containers) in enumerate(parts or (([], []),), start=1):
            more = number < len(parts)
            request = nri_pb2.SynchronizeRequest(pods=pods, containers=containers, more=more)
            answer = self.call("Synchronize", request, nri_pb2.SynchronizeResponse)
            if more and (answer.update or not answer.more):
                self.close()
                raise ValueError("plugin does not handle split sync requests")
        return list(answer.update)

    def close(self) -> None:
        self.socket.close()


class FakeRuntime:
    """A runtime's NRI socket. It knows the events up to `last_event`: 11 before NRI 0.10, 14 from then on."""

    def __init__(self, path: Path, last_event: int = 14) -> None:
        self.path = path
        self.last_event = last_event
        self._connections: list[Connection] = []
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.settimeout(PATIENCE)

    def accept(self) -> Connection:
        sock, _ = self._listener.accept()
        self._connections.append(Connection(sock, self.last_event))
        return self._connections[-1]

    def connected(self, name: str = "containerd", version: str = "2.3.0", **fields: object) -> Connection:
        """A plugin's next connection, registered, configured and synchronised."""
        connection = self.accept()
        connection.accept_registration()
        connection.configure(name, version, **fields)
        connection.synchronize()
        return connection

    def stop(self) -> None:
        """Go away, connections, socket and all."""
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for connection in self._connections:
            connection.close()
