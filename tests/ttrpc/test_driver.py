"""Two drivers talk over a socket pair; where the peer has to misbehave, the test holds its end of the pair
itself.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import pytest

from nri_flox.ttrpc.connection import MAX_DATA, ClientConnection, LocalProtocolError, MessageTooLargeError
from nri_flox.ttrpc.driver import (
    Call,
    Cause,
    Client,
    ConnectionLostError,
    Driver,
    End,
    Handler,
    LateAnswerError,
)
from nri_flox.ttrpc.mux import frame
from nri_flox.ttrpc.status import Code, StatusError

CONNECTION = 1
PATIENCE = 5.0  # seconds a test waits for what should come at once


class Running:
    """A driver whose loop runs on a thread of its own."""

    def __init__(self, sock: socket.socket, methods: Mapping[str, Handler], **options: float) -> None:
        self.errors: list[tuple[str, Exception]] = []
        self.driver = Driver(sock, on_error=lambda *error: self.errors.append(error), **options)
        self.driver.serve(CONNECTION, {"service": methods})
        self._ends: list[End] = []
        self._thread = threading.Thread(target=lambda: self._ends.append(self.driver.run()))
        self._thread.start()

    def end(self) -> End:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the loop did not end"
        return self._ends[0]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


Serve = Callable[..., Running]


@pytest.fixture
def serve(pair: tuple[socket.socket, socket.socket]) -> Iterator[Serve]:
    """Start a driver on the far end of `pair`, by its methods; it is stopped after the test."""
    started: list[Running] = []

    def start(options: Mapping[str, float] | None = None, **methods: Handler) -> Running:
        started.append(Running(pair[1], methods, **(options or {})))
        return started[-1]

    yield start
    for running in started:
        running.driver.stop()
        with suppress(OSError):
            pair[0].shutdown(socket.SHUT_RDWR)
        running.end()


@contextmanager
def calling(sock: socket.socket) -> Iterator[Client]:
    """A client of whatever serves at the other end."""
    driver = Driver(sock)
    client = driver.client(CONNECTION)
    thread = threading.Thread(target=driver.run)
    thread.start()
    try:
        yield client
    finally:
        driver.stop()
        thread.join(PATIENCE)


def echo(payload: bytes, _call: Call) -> bytes:
    return payload


def doing(action: Callable[[Call], object]) -> Handler:
    """A handler that does something and answers with nothing."""

    def handler(_payload: bytes, call: Call) -> bytes:
        action(call)
        return b""

    return handler


def request(method: str, payload: bytes = b"", timeout: float = 0.0) -> bytes:
    """The bytes of a first call."""
    _, writes = ClientConnection().send_request("service", method, payload, int(timeout * 1e9))
    return b"".join(frame(CONNECTION, write) for write in writes)


@pytest.mark.parametrize("size", [0, 1, 4000, 5000, 70_000, MAX_DATA - 100])
def test_call_is_answered(pair: tuple[socket.socket, socket.socket], serve: Serve, size: int) -> None:
    serve(echo=echo)
    with calling(pair[0]) as client:
        assert client.call("service", "echo", b"x" * size, timeout=PATIENCE) == b"x" * size


def test_status_of_a_handler_reaches_the_caller(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    def refuse(_payload: bytes, _call: Call) -> bytes:
        raise StatusError(Code.FAILED_PRECONDITION, "not today")

    running = serve(refuse=refuse)
    with calling(pair[0]) as client, pytest.raises(StatusError) as raised:
        client.call("service", "refuse", b"", timeout=PATIENCE)
    assert (raised.value.code, raised.value.message) == (Code.FAILED_PRECONDITION, "not today")
    assert running.errors == []


def test_crash_of_a_handler_gives_away_its_type_alone(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    def crash(_payload: bytes, _call: Call) -> bytes:
        raise ValueError("the token is s3cr3t")

    running = serve(crash=crash, echo=echo)
    with calling(pair[0]) as client:
        with pytest.raises(StatusError) as raised:
            client.call("service", "crash", b"", timeout=PATIENCE)
        assert client.call("service", "echo", b"still here", timeout=PATIENCE) == b"still here"
    assert (raised.value.code, raised.value.message) == (Code.INTERNAL, "internal error: ValueError")
    assert [(where, str(error)) for where, error in running.errors] == [("service/crash", "the token is s3cr3t")]


@pytest.mark.parametrize(
    ("service", "method", "text"),
    [("service", "other", "method other"), ("other", "echo", "service other")],
)
def test_unknown_method_or_service_is_unimplemented(
    pair: tuple[socket.socket, socket.socket], serve: Serve, service: str, method: str, text: str
) -> None:
    serve(echo=echo)
    with calling(pair[0]) as client, pytest.raises(StatusError) as raised:
        client.call(service, method, b"", timeout=PATIENCE)
    assert (int(raised.value.code), raised.value.message) == (12, text)


def test_oversized_answer_becomes_an_error_and_the_connection_lives(
    pair: tuple[socket.socket, socket.socket], serve: Serve
) -> None:
    running = serve(huge=lambda _payload, _call: bytes(MAX_DATA), echo=echo)
    with calling(pair[0]) as client:
        with pytest.raises(StatusError) as raised:
            client.call("service", "huge", b"", timeout=PATIENCE)
        assert client.call("service", "echo", b"!", timeout=PATIENCE) == b"!"
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert isinstance(running.errors[0][1], MessageTooLargeError)


def test_handler_knows_when_its_answer_is_due(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    deadlines: list[float | None] = []

    def note(_payload: bytes, call: Call) -> bytes:
        deadlines.append(call.deadline)
        return b""

    serve(note=note)
    before = time.monotonic()
    with calling(pair[0]) as client:
        client.call("service", "note", b"", timeout=2.0)
    assert deadlines[0] is not None
    assert before + 1.9 < deadlines[0] < time.monotonic() + 2.1


def test_call_without_a_limit_has_no_deadline(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    deadlines: list[float | None] = []
    serve(note=doing(lambda call: deadlines.append(call.deadline)))
    pair[0].sendall(request("note"))
    pair[0].recv(100)
    assert deadlines == [None]


def test_late_answer_is_reported(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    running = serve(slow=doing(lambda _call: time.sleep(0.05)))
    pair[0].sendall(request("slow", timeout=0.01))
    pair[0].recv(100)
    pair[0].close()
    assert running.end().cause is Cause.CLOSED
    assert [(where, type(error)) for where, error in running.errors] == [("service/slow", LateAnswerError)]


def test_late_answer_is_reported_though_the_peer_has_gone_over_it(
    pair: tuple[socket.socket, socket.socket], serve: Serve
) -> None:
    closed = threading.Event()
    running = serve(slow=doing(lambda _call: closed.wait(PATIENCE)))
    pair[0].sendall(request("slow", timeout=0.001))
    time.sleep(0.01)
    pair[0].close()
    closed.set()
    assert running.end().cause is Cause.CLOSED
    assert [type(error) for _, error in running.errors] == [LateAnswerError]


def test_afterwards_runs_when_the_answer_is_out_and_before_the_next_request(
    pair: tuple[socket.socket, socket.socket], serve: Serve
) -> None:
    order: list[str] = []
    answer_seen = threading.Event()

    def first(_payload: bytes, call: Call) -> bytes:
        call.after(lambda: order.append(f"answer out: {answer_seen.wait(PATIENCE)}"))
        call.after(lambda: order.append("second function"))
        return b""

    serve(first=first, second=doing(lambda _call: order.append("next request")))
    client = ClientConnection()
    calls = [client.send_request("service", method, b"")[1][0] for method in ("first", "second")]
    pair[0].sendall(b"".join(frame(CONNECTION, call) for call in calls))
    pair[0].recv(18)
    answer_seen.set()
    pair[0].recv(18)
    assert order == ["answer out: True", "second function", "next request"]


def test_failure_afterwards_is_reported_and_harms_nothing(
    pair: tuple[socket.socket, socket.socket], serve: Serve
) -> None:
    def method(_payload: bytes, call: Call) -> bytes:
        call.after(lambda: print(1 // 0))
        return b"fine"

    running = serve(method=method)
    with calling(pair[0]) as client:
        for _ in range(2):
            assert client.call("service", "method", b"", timeout=PATIENCE) == b"fine"
    assert [type(error) for _, error in running.errors][:1] == [ZeroDivisionError]


# Calls in both directions at once.


def test_requests_are_served_while_a_call_of_ours_is_pending(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    runtime, plugin = Driver(pair[0]), Driver(pair[1])
    order: list[str] = []

    def register(_payload: bytes, call: Call) -> bytes:
        # The runtime's own request goes out before its answer to the registration.
        runtime.client(1).start("service", "configure", b"", lambda _result: order.append("configured"))
        call.after(lambda: order.append("registration answered"))
        return b""

    def registered(result: bytes | Exception) -> None:
        order.append(f"registered {result!r}")
        plugin.stop()

    runtime.serve(2, {"service": {"register": register}})
    plugin.serve(1, {"service": {"configure": doing(lambda _call: order.append("configure"))}})
    plugin.client(2).start("service", "register", b"", registered)
    thread = threading.Thread(target=runtime.run)
    thread.start()
    assert plugin.run().cause is Cause.STOPPED
    thread.join(PATIENCE)
    assert order.index("configure") < order.index("registered b''")


def test_calls_from_many_threads_get_their_own_answers(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    serve(echo=echo)
    wrong: list[int] = []

    def call(client: Client, number: int) -> None:
        for turn in range(50):
            payload = f"{number} {turn}".encode() * 500
            if client.call("service", "echo", payload, timeout=PATIENCE) != payload:
                wrong.append(number)

    with calling(pair[0]) as client:
        threads = [threading.Thread(target=call, args=(client, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert wrong == []


def test_call_gives_up_in_time(pair: tuple[socket.socket, socket.socket]) -> None:
    with calling(pair[0]) as client, pytest.raises(StatusError, match=r"within 0\.05 s") as raised:
        client.call("service", "nobody there", b"", timeout=0.05)
    assert raised.value.code == Code.DEADLINE_EXCEEDED


def test_pending_and_later_calls_fail_when_the_connection_goes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    with calling(pair[0]) as client:
        threading.Timer(0.05, pair[1].close).start()
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                client.call("service", "method", b"", timeout=PATIENCE)


def test_call_from_the_loops_own_thread_is_our_fault(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    driver = Driver(pair[1])
    driver.serve(CONNECTION, {"service": {"call": lambda p, _call: driver.client(2).call("s", "m", p, timeout=1)}})
    errors: list[Exception] = []
    driver._on_error = lambda _where, error: errors.append(error)
    pair[0].sendall(request("call"))
    pair[0].shutdown(socket.SHUT_WR)
    driver.run()
    assert [type(error) for error in errors] == [LocalProtocolError]


# Ends.


def test_end_of_the_stream_is_told_from_a_fault(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    running = serve(echo=echo)
    pair[0].close()
    assert running.end() == End(Cause.CLOSED, "the peer closed the connection")


def test_end_inside_a_message_is_told(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    running = serve(echo=echo)
    pair[0].sendall(request("echo", b"a long message")[:30])
    pair[0].close()
    assert running.end() == End(Cause.CLOSED, "the peer closed the connection inside a message")


def test_fault_of_the_peer_ends_the_connection(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    running = serve(echo=echo)
    pair[0].sendall(frame(CONNECTION, bytes.fromhex("00000000 00000001 02 00")))
    end = running.end()
    assert end.cause is Cause.FAULT
    assert end.text == "the peer broke the protocol: the client sent a response"


def test_bytes_for_a_connection_nobody_opened_are_dropped(
    pair: tuple[socket.socket, socket.socket], serve: Serve
) -> None:
    serve(echo=echo)
    pair[0].sendall(frame(77, b"\xff" * 100) + request("echo", b"hello"))
    assert pair[0].recv(100).endswith(b"hello")


def test_stop_ends_an_idle_loop_at_once(serve: Serve) -> None:
    running = serve(echo=echo)
    start = time.monotonic()
    running.driver.stop()
    assert running.end() == End(Cause.STOPPED, "stopped")
    assert time.monotonic() - start < 1


def test_stop_before_the_loop_runs_is_not_lost(pair: tuple[socket.socket, socket.socket]) -> None:
    driver = Driver(pair[1])
    driver.stop()
    assert driver.run().cause is Cause.STOPPED


def test_request_in_hand_is_answered_before_a_stop(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    in_hand, go_on = threading.Event(), threading.Event()

    def handle(_payload: bytes, _call: Call) -> bytes:
        in_hand.set()
        go_on.wait(PATIENCE)
        return b"answered"

    running = serve(handle=handle)
    client = ClientConnection()
    calls = [client.send_request("service", "handle", b"")[1][0] for _ in range(2)]
    pair[0].sendall(b"".join(frame(CONNECTION, call) for call in calls))
    in_hand.wait(PATIENCE)
    running.driver.stop()
    go_on.set()
    assert running.end().cause is Cause.STOPPED
    assert pair[0].recv(1000).count(b"answered") == 2


def test_peer_that_does_not_read_is_dropped(pair: tuple[socket.socket, socket.socket], serve: Serve) -> None:
    running = serve({"send_timeout": 0.1}, flood=lambda _payload, _call: bytes(MAX_DATA - 100))
    pair[0].sendall(request("flood"))
    assert running.end() == End(Cause.STALLED, "the peer did not read for 0.1 s")
