"""Runs ttrpc over one blocking socket with a multiplexer: a thread that reads, calls handlers, and answers.

There is no event loop and no thread pool: a request is read, handled and answered on the thread that called
`run`, one after the other, which is the shortest way there is and the order in which a container runtime asks
anyway. Calls to the peer can be made meanwhile from other threads, and begun from the loop's own. A handler
that may take long has no place here.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from socket import SHUT_RD, SHUT_RDWR, SO_SNDTIMEO, SOL_SOCKET, socket
from struct import pack
from time import monotonic

from .connection import (
    ClientConnection,
    LocalProtocolError,
    MessageTooLargeError,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
)
from .mux import Demultiplexer, frame
from .status import Code, StatusError

_READ_SIZE = 64 << 10
_NANO = 1_000_000_000


class ConnectionLostError(ConnectionError):
    """A call that will not be answered, because the connection has ended."""


class LateAnswerError(Exception):
    """An answer that was written after its deadline: the peer has most likely given the call up."""


class Cause(Enum):
    """Why a connection ended."""

    STOPPED = "stopped"
    """`Driver.stop` was called."""
    CLOSED = "closed"
    """The peer closed it, or is gone."""
    FAULT = "fault"
    """The peer broke the protocol."""
    STALLED = "stalled"
    """The peer did not take what was written to it."""


@dataclass(frozen=True, slots=True)
class End:
    """How `Driver.run` ended, with a text for people."""

    cause: Cause
    text: str


class Call:
    """What a handler can know of the call it serves, beside its payload."""

    __slots__ = ("_afterwards", "deadline")

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        """Seconds on the clock of `time.monotonic` by which the peer wants the answer; None: no limit."""
        self._afterwards: list[Callable[[], None]] | None = None

    def after(self, function: Callable[[], None]) -> None:
        """Run `function` once the answer is written, before the next request is read.

        Not at all when the answer cannot be written: then the peer has not learned of it either.
        """
        if self._afterwards is None:
            self._afterwards = [function]
        else:
            self._afterwards.append(function)

    def run_afterwards(self) -> None:
        """Run what `after` was given, in order. For whoever drives the call; the Driver does it itself."""
        for function in self._afterwards or ():
            function()


Handler = Callable[[bytes, Call], bytes]
"""Takes a serialised request; returns the serialised response, or raises StatusError to answer with that."""

Service = Mapping[str, Handler]
"""Handlers by method name."""

Done = Callable[[bytes | Exception], None]
"""Takes the serialised response, or the StatusError or ConnectionLostError that came instead."""


class Driver:
    """One connected stream socket, with ttrpc services and clients on its multiplexed connections.

    The socket is put into blocking mode and stays the caller's to close, after `run` has returned. `on_error`
    is told of failures that have no caller here to learn of them, as ("Service/Method", exception), off the
    answer's path, and must not raise.
    """

    def __init__(
        self,
        sock: socket,
        *,
        send_timeout: float = 2.0,
        on_error: Callable[[str, Exception], None] = lambda _where, _error: None,
    ) -> None:
        sock.setblocking(True)
        # The kernel's own timeout costs nothing, where Python's would poll before every call.
        whole, fraction = divmod(send_timeout, 1)
        sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, pack("@ll", int(whole), int(fraction * 1e6)))
        self._socket = sock
        self._send_timeout = send_timeout
        self._send_lock = threading.Lock()
        self._on_error = on_error
        self._servers: dict[int, tuple[ServerConnection, Mapping[str, Service]]] = {}
        self._clients: dict[int, Client] = {}
        self._stopping = False
        self._failure: End | None = None
        self._thread: int | None = None

    def serve(self, connection_id: int, services: Mapping[str, Service]) -> None:
        """Answer calls on this connection by the services' handlers, by service name."""
        self._servers[connection_id] = ServerConnection(), services

    def client(self, connection_id: int) -> "Client":
        """Return the client of this connection; there is one."""
        if connection_id not in self._clients:
            self._clients[connection_id] = Client(self, connection_id)
        return self._clients[connection_id]

    def stop(self) -> None:
        """End `run`, from another thread or a signal handler. Requests that have come are still answered."""
        self._stopping = True
        with suppress(OSError):  # not connected any more
            self._socket.shutdown(SHUT_RD)

    def run(self) -> End:
        """Serve until the connection ends, and say why it did. Calls still pending then fail."""
        self._thread = threading.get_ident()
        end = End(Cause.CLOSED, "the loop was left by an exception")
        try:
            end = self._loop()
        finally:
            self._disconnect()
            for client in self._clients.values():
                client.lose(end.text)
        return end

    def _loop(self) -> End:
        receive = self._socket.recv
        demultiplexer = Demultiplexer()
        try:
            while data := receive(_READ_SIZE):
                for connection_id, payload in demultiplexer.receive_data(data):
                    self._receive(connection_id, payload)
        except RemoteProtocolError as error:
            return End(Cause.FAULT, f"the peer broke the protocol: {error}")
        except OSError as error:
            return self._failure or End(Cause.CLOSED, f"the peer closed the connection ({error.strerror})")
        if self._failure is not None:
            return self._failure
        if self._stopping:
            return End(Cause.STOPPED, "stopped")
        inside = demultiplexer.mid_frame or any(server.mid_message for server, _ in self._servers.values())
        return End(Cause.CLOSED, "the peer closed the connection" + " inside a message" * inside)

    def _receive(self, connection_id: int, payload: bytes) -> None:
        # A function of its own, so that no request of megabytes stays in a variable until the next comes.
        if (served := self._servers.get(connection_id)) is not None:
            server, services = served
            for event in server.receive_data(payload):
                self._answer(connection_id, server, services, event)
        elif (client := self._clients.get(connection_id)) is not None:
            client.receive_data(payload)
        # Bytes for a connection that nobody opened are dropped, as Go's multiplexer does.

    def _answer(
        self,
        connection_id: int,
        server: ServerConnection,
        services: Mapping[str, Service],
        event: Request | Refused,
    ) -> None:
        if isinstance(event, Refused):
            self.write(connection_id, event.writes)
            self._on_error("a request", StatusError(event.code, event.message))
            return
        deadline = monotonic() + event.timeout_nano / _NANO if event.timeout_nano else None
        call = Call(deadline)
        failure: Exception | None = None
        try:
            handler = services[event.service][event.method]
        except KeyError:
            what = f"method {event.method}" if event.service in services else f"service {event.service}"
            self.write(connection_id, server.send_error(event.stream_id, Code.UNIMPLEMENTED, what))
            return
        try:
            writes = server.send_response(event.stream_id, handler(event.payload, call))
        except StatusError as refusal:
            writes = server.send_error(event.stream_id, refusal.code, refusal.message)
        except MessageTooLargeError as error:
            failure = error
            writes = server.send_error(event.stream_id, Code.RESOURCE_EXHAUSTED, str(error))
        except Exception as error:
            # The text of an exception can hold what the peer's users must not see, so only its name goes out.
            failure = error
            text = f"internal error: {type(error).__name__}"
            writes = server.send_error(event.stream_id, Code.INTERNAL, text)
        late = monotonic() - deadline if deadline is not None else 0.0
        try:
            self.write(connection_id, writes)
        finally:  # a peer that has waited too long has often closed the connection
            if late > 0:
                self._on_error(_where(event), LateAnswerError(f"answered {late:.3f} s too late"))
            if failure is not None:
                self._on_error(_where(event), failure)
        try:
            call.run_afterwards()
        except Exception as error:
            self._on_error(_where(event), error)

    def write(self, connection_id: int, writes: list[bytes]) -> None:
        """Write to a connection, from its client. Raises OSError when the socket takes nothing more."""
        first, *more = writes
        data = frame(connection_id, first)
        if more:
            data += b"".join([frame(connection_id, write) for write in more])
        with self._send_lock:
            try:
                self._socket.sendall(data)
            except BlockingIOError:
                # Part of the data may be on its way, so nothing sensible can follow it.
                text = f"the peer did not read for {self._send_timeout:g} s"
                self._failure = self._failure or End(Cause.STALLED, text)
                self._disconnect()
                raise

    def _disconnect(self) -> None:
        with suppress(OSError):  # not connected any more
            self._socket.shutdown(SHUT_RDWR)

    @property
    def on_loop_thread(self) -> bool:
        """Whether the caller runs on the thread that `run` was called on."""
        return self._thread == threading.get_ident()


class Client:
    """Calls to the peer on one connection; made by `Driver.client`, safe to use from any thread."""

    def __init__(self, driver: Driver, connection_id: int) -> None:
        self._driver = driver
        self._connection_id = connection_id
        self._connection = ClientConnection()
        self._pending: dict[int, Done] = {}
        # Held while a call gets its stream id and is written, since ids must reach the peer in order.
        self._lock = threading.Lock()
        self._lost = ""  # why the connection ended, once it has

    def start(self, service: str, method: str, payload: bytes, done: Done, *, timeout: float | None = None) -> int:
        """Begin a call and return its stream id; `done` gets the outcome, once, on the loop's thread.

        `timeout`, in seconds, is only told to the peer. Raises ConnectionLostError, or MessageTooLargeError.
        """
        timeout_nano = max(1, int(timeout * _NANO)) if timeout is not None else 0
        with self._lock:
            if self._lost:
                raise ConnectionLostError(self._lost)
            stream_id, writes = self._connection.send_request(service, method, payload, timeout_nano)
            self._pending[stream_id] = done
            try:
                self._driver.write(self._connection_id, writes)
            except OSError as error:
                del self._pending[stream_id]
                raise ConnectionLostError(f"the call could not be written: {error.strerror}") from error
            return stream_id

    def call(self, service: str, method: str, payload: bytes, *, timeout: float) -> bytes:
        """Call and wait at most `timeout` seconds for the serialised response. Not for the loop's own thread.

        Raises StatusError (code DEADLINE_EXCEEDED when the time is up), ConnectionLostError, or
        MessageTooLargeError.
        """
        if self._driver.on_loop_thread:
            raise LocalProtocolError("a call from the loop's own thread would wait for itself")
        arrived = threading.Event()
        outcome: list[bytes | Exception] = []

        def done(result: bytes | Exception) -> None:
            outcome.append(result)
            arrived.set()

        stream_id = self.start(service, method, payload, done, timeout=timeout)
        if not arrived.wait(timeout):
            self._connection.abandon(stream_id)
            self._pending.pop(stream_id, None)
            raise StatusError(Code.DEADLINE_EXCEEDED, f"{method} was not answered within {timeout:g} s")
        result = outcome[0]
        if isinstance(result, Exception):
            raise result
        return result

    def receive_data(self, data: bytes) -> None:
        """Take bytes of this connection, from the Driver. Raises RemoteProtocolError."""
        for response in self._connection.receive_data(data):
            if (done := self._pending.pop(response.stream_id, None)) is not None:
                done(_outcome(response))

    def lose(self, reason: str) -> None:
        """Fail all pending and all later calls, from the Driver."""
        with self._lock:
            self._lost = reason
            pending, self._pending = self._pending, {}
        for done in pending.values():
            done(ConnectionLostError(reason))


def _where(request: Request) -> str:
    return f"{request.service}/{request.method}"


def _outcome(response: Response) -> bytes | StatusError:
    return response.payload if response.code == Code.OK else StatusError(response.code, response.message)
