"""The ttrpc state machines: bytes by example, streams cut at every place, hostile peers."""

from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_flox.ttrpc.connection import (
    MAX_DATA,
    ClientConnection,
    LocalProtocolError,
    MessageTooLargeError,
    Refused,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
)
from nri_flox.ttrpc.status import Code
from nri_flox.ttrpc.ttrpc_pb2 import Request as RequestMessage
from nri_flox.ttrpc.ttrpc_pb2 import Response as ResponseMessage

REQUEST, RESPONSE, DATA = 1, 2, 3


def message(stream_id: int, kind: int, data: bytes = b"", flags: int = 0) -> bytes:
    return pack(">IIBB", len(data), stream_id, kind, flags) + data


def request(stream_id: int = 1, payload: bytes = b"question") -> bytes:
    data = RequestMessage(service="service", method="Method", payload=payload, timeout_nano=2_000_000_000)
    return message(stream_id, REQUEST, data.SerializeToString())


def asked(stream_id: int = 1) -> ServerConnection:
    """A server with one unanswered call."""
    server = ServerConnection()
    server.receive_data(request(stream_id))
    return server


def asking() -> ClientConnection:
    """A client with one call, on stream 1."""
    client = ClientConnection()
    client.send_request("service", "Method", b"question")
    return client


# Bytes.


def test_request_on_the_wire() -> None:
    client = ClientConnection()
    stream_id, writes = client.send_request("s", "m", b"p", timeout_nano=300)
    # length 12, stream 1, type 1, flags 0; then fields 1 to 4
    assert writes == [bytes.fromhex("0000000c 00000001 01 00 0a0173 12016d 1a0170 20ac02")]
    assert stream_id == 1


def test_response_on_the_wire() -> None:
    assert asked().send_response(1, b"answer") == [bytes.fromhex("00000008 00000001 02 00 1206") + b"answer"]


def test_empty_response_has_no_data() -> None:
    assert asked().send_response(1, b"") == [bytes.fromhex("00000000 00000001 02 00")]


def test_error_on_the_wire() -> None:
    writes = asked().send_error(1, Code.NOT_FOUND, "no")
    assert writes == [bytes.fromhex("00000008 00000001 02 00 0a06 0805 1202") + b"no"]


@given(st.binary(max_size=300), st.integers(0, 70_000))
def test_response_is_what_protobuf_would_have_written(payload: bytes, repeat: int) -> None:
    payload *= min(repeat, 1 + 300_000 // (len(payload) + 1))
    written = b"".join(asked().send_response(1, payload))
    assert written[10:] == ResponseMessage(payload=payload).SerializeToString()


# Writes: a Go peer reads each frame into 4096 bytes, except the payload it has asked for by its length.


@pytest.mark.parametrize("size", [4083, 4084, 4086, 4090, 4096, 7000, 100_000])
def test_message_over_4096_bytes_is_header_and_payload_apart(size: int) -> None:
    writes = asked().send_response(1, b"x" * size)
    whole = b"".join(writes)
    assert [len(write) for write in writes] == ([len(whole)] if len(whole) <= 4096 else [10, len(whole) - 10])


def test_long_request_and_long_error_are_apart_too() -> None:
    assert [len(w) > 10 for w in ClientConnection().send_request("s", "m", b"x" * 5000)[1]] == [False, True]
    assert [len(w) > 10 for w in asked().send_error(1, Code.INTERNAL, "x" * 5000)] == [False, True]


# The server's side.


def test_request_arrives_with_everything_it_carries() -> None:
    client, server = ClientConnection(), ServerConnection()
    _, writes = client.send_request("service", "Method", b"question", 5)
    assert server.receive_data(b"".join(writes)) == [Request(1, "service", "Method", b"question", 5)]


def test_stream_ids_of_a_client_are_odd_and_grow() -> None:
    client = ClientConnection()
    assert [client.send_request("s", "m", b"")[0] for _ in range(3)] == [1, 3, 5]


@pytest.mark.parametrize(
    ("wrong", "code", "text"),
    [
        (request(stream_id=8), Code.INVALID_ARGUMENT, "odd"),
        (request(stream_id=7), Code.INVALID_ARGUMENT, "grow"),
        (request(stream_id=5), Code.INVALID_ARGUMENT, "grow"),
        (message(9, REQUEST, b"\xff\xff"), Code.INVALID_ARGUMENT, "decoded"),
        (message(7, DATA, b"data"), Code.INVALID_ARGUMENT, "no stream"),
        (pack(">IIBB", MAX_DATA + 1, 9, REQUEST, 0) + bytes(MAX_DATA + 1), Code.RESOURCE_EXHAUSTED, "limit"),
    ],
    ids=["even id", "same id", "lower id", "no request", "stream data", "too large"],
)
def test_bad_request_is_answered_and_the_connection_goes_on(wrong: bytes, code: Code, text: str) -> None:
    server = asked(stream_id=7)
    refused, served = server.receive_data(wrong + request(stream_id=11))
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert text in refused.message
    status = ResponseMessage.FromString(b"".join(refused.writes)[10:]).status
    assert (status.code, status.message) == (code, refused.message)
    assert isinstance(served, Request)


def test_request_of_exactly_the_limit_is_served() -> None:
    overhead = len(request(payload=b"x" * MAX_DATA)) - 10 - MAX_DATA
    (event,) = ServerConnection().receive_data(request(payload=b"x" * (MAX_DATA - overhead)))
    assert isinstance(event, Request)


def test_oversized_request_is_skipped_in_pieces() -> None:
    server = ServerConnection()
    events = server.receive_data(pack(">IIBB", MAX_DATA * 3, 1, REQUEST, 0))
    for _ in range(3):
        assert server.mid_message
        events += server.receive_data(bytes(MAX_DATA))
    events += server.receive_data(request(stream_id=3))
    assert [type(event) for event in events] == [Refused, Request]


def test_message_of_an_unknown_type_is_ignored() -> None:
    assert ServerConnection().receive_data(message(1, 77, b"from the future")) == []


def test_response_to_a_server_is_the_clients_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="client sent a response"):
        ServerConnection().receive_data(message(1, RESPONSE))


def test_call_is_answered_once() -> None:
    server = asked()
    server.send_response(1, b"")
    with pytest.raises(LocalProtocolError, match="no call to answer"):
        server.send_error(1, Code.INTERNAL, "again")


def test_call_that_was_never_made_is_not_answered() -> None:
    with pytest.raises(LocalProtocolError, match="no call to answer"):
        asked().send_response(3, b"")


def test_error_needs_a_code_that_says_so() -> None:
    with pytest.raises(LocalProtocolError, match="OK"):
        asked().send_error(1, Code.OK, "fine")


def test_oversized_response_can_still_become_an_error() -> None:
    server = asked()
    with pytest.raises(MessageTooLargeError, match="over the limit"):
        server.send_response(1, bytes(MAX_DATA))
    assert server.send_error(1, Code.RESOURCE_EXHAUSTED, "too much")


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\udcff", "\0", "héllo\n"])
def test_any_text_can_be_sent_as_an_error(text: str) -> None:
    client = asking()
    (response,) = client.receive_data(b"".join(asked().send_error(1, Code.INTERNAL, text)))
    assert response.code == Code.INTERNAL
    assert 0 < len(response.message) <= 16 << 10


# The client's side.


def test_response_arrives() -> None:
    answer = b"".join(asked().send_response(1, b"answer"))
    assert asking().receive_data(answer) == [Response(1, Code.OK, "", b"answer")]


def test_error_arrives() -> None:
    answer = b"".join(asked().send_error(1, Code.NOT_FOUND, "no such thing"))
    assert asking().receive_data(answer) == [Response(1, Code.NOT_FOUND, "no such thing", b"")]


def test_unknown_code_counts_as_unknown() -> None:
    answer = ResponseMessage()
    answer.status.code = 4711
    (response,) = asking().receive_data(message(1, RESPONSE, answer.SerializeToString()))
    assert response.code is Code.UNKNOWN


def test_late_response_to_an_abandoned_call_is_dropped() -> None:
    client = asking()
    client.abandon(1)
    assert client.receive_data(message(1, RESPONSE)) == []


def test_oversized_response_fails_its_call_alone() -> None:
    client = asking()
    client.send_request("service", "Method", b"another")
    huge = pack(">IIBB", MAX_DATA + 1, 1, RESPONSE, 0) + bytes(MAX_DATA + 1)
    first, second = client.receive_data(huge + message(3, RESPONSE))
    assert (first.stream_id, first.code) == (1, Code.RESOURCE_EXHAUSTED)
    assert (second.stream_id, second.code) == (3, Code.OK)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (message(3, RESPONSE), "never opened"),
        (message(2, RESPONSE), "never opened"),
        (message(1, RESPONSE, b"\xff\xff"), "cannot be decoded"),
        (message(1, DATA), "unary"),
        (message(1, REQUEST), "server sent a request"),
    ],
)
def test_nonsense_is_the_servers_fault(wrong: bytes, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        asking().receive_data(wrong)


def test_oversized_request_is_our_fault_and_uses_up_no_stream() -> None:
    client = ClientConnection()
    with pytest.raises(MessageTooLargeError):
        client.send_request("s", "m", bytes(MAX_DATA))
    assert client.send_request("s", "m", b"")[0] == 1


# Streams, however they come.

REQUESTS = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


def chunked(stream: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream))))})
    return [stream[a:b] for a, b in pairwise(cuts)]


@given(REQUESTS, st.data())
def test_both_sides_understand_a_stream_cut_anywhere(payloads: list[bytes], data: st.DataObject) -> None:
    client, server = ClientConnection(), ServerConnection()
    stream = b"".join(b"".join(client.send_request("s", "m", payload)[1]) for payload in payloads)
    requests = [event for chunk in chunked(stream, data) for event in server.receive_data(chunk)]
    assert [event.payload for event in requests if isinstance(event, Request)] == payloads

    stream = b"".join(b"".join(server.send_response(e.stream_id, payloads[e.stream_id // 2])) for e in requests)
    responses = [event for chunk in chunked(stream, data) for event in client.receive_data(chunk)]
    assert [event.payload for event in responses] == payloads
    assert not server.mid_message
    assert not client.mid_message


def test_stream_cut_at_every_single_place() -> None:
    stream = request(1, b"one") + request(3, b"") + request(5, b"three")
    whole = ServerConnection().receive_data(stream)
    for cut in range(len(stream) + 1):
        server = ServerConnection()
        assert server.receive_data(stream[:cut]) + server.receive_data(stream[cut:]) == whole, cut


MESSAGES = st.builds(
    message,
    st.integers(0, 12),
    st.integers(0, 255),
    st.binary(max_size=20) | st.just(request()[10:]),
    st.integers(0, 255),
)
GARBAGE = st.binary(max_size=60) | st.lists(MESSAGES | st.just(request(9)), max_size=6).map(b"".join)


@given(st.lists(GARBAGE, max_size=5))
def test_garbage_to_a_server_raises_nothing_but_remote_protocol_errors(chunks: list[bytes]) -> None:
    server = ServerConnection()
    try:
        for chunk in chunks:
            server.receive_data(chunk)
    except RemoteProtocolError:
        pass


@given(st.lists(GARBAGE, max_size=5))
def test_garbage_to_a_client_raises_nothing_but_remote_protocol_errors(chunks: list[bytes]) -> None:
    client = asking()
    try:
        for chunk in chunks:
            client.receive_data(chunk)
    except RemoteProtocolError:
        pass
