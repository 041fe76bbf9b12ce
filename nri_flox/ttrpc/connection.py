"""The ttrpc protocol as state machines without a socket: one class for each role.

Strategy: bytes from the peer go into `receive_data`, which returns the events they complete. Each `send_*`
method returns what has to be written to the peer, as a list of *writes*. Where writes end matters, though the
protocol is a byte stream: a Go peer behind NRI's multiplexer reads each frame into a buffer of 4096 bytes and
gives the connection up when a frame is larger. Only the payload of a message, asked for by itself once its
header is known, may be longer. So a message of more than 4096 bytes is two writes, header and payload, and
each write becomes a frame.

A mistake of ours raises LocalProtocolError and changes nothing; a mistake of the peer that leaves no common
ground raises RemoteProtocolError, after which the connection is of no use. Where the Go implementation
answers a bad request with a status and carries on, so does this one (event `Refused`).

Streaming and metadata are not implemented. Source of the format and of the peer's behaviour:
github.com/containerd/ttrpc.
"""

from struct import Struct
from typing import NamedTuple

from google.protobuf.message import DecodeError

from . import ttrpc_pb2
from .status import Code

_HEADER = Struct(">IIBB")
_HEADER_LENGTH = 10
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from

_REQUEST, _RESPONSE, _DATA = 1, 2, 3

MAX_DATA = 4 << 20
"""Most bytes of one message after its header."""

MAX_WRITE = 4096
"""Most bytes of header and payload together that may be one write."""

_MAX_ERROR_TEXT = 16 << 10


class ProtocolError(Exception):
    """The rules of ttrpc were broken; the subclass says by whom."""


class LocalProtocolError(ProtocolError):
    """This side tried what the protocol does not allow. Nothing was sent."""


class MessageTooLargeError(LocalProtocolError):
    """A message over MAX_DATA was to be sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow. The connection cannot go on."""


# Events are named tuples: as immutable as frozen dataclasses, and made in a fifth of the time.


class Request(NamedTuple):
    """A call from the peer, to be answered by `send_response` or `send_error`."""

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout_nano: int
    """Nanoseconds left for the answer; 0: no limit; negative: the time was up before it was sent."""


class Refused(NamedTuple):
    """A call from the peer that cannot be served, with the answer it has to get."""

    stream_id: int
    code: Code
    message: str
    writes: list[bytes]


class Response(NamedTuple):
    """The answer to a call of ours. `payload` is meaningful only where `code` is OK."""

    stream_id: int
    code: Code
    message: str
    payload: bytes


def _message(stream_id: int, kind: int, data: bytes) -> list[bytes]:
    header = _pack_header(len(data), stream_id, kind, 0)
    return [header + data] if len(data) <= MAX_WRITE - _HEADER_LENGTH else [header, data]


def _error(stream_id: int, code: Code, message: str) -> list[bytes]:
    # protobuf takes no lone surrogates, which texts with undecodable file names hold.
    text = message[:_MAX_ERROR_TEXT].encode(errors="replace").decode()
    status = ttrpc_pb2.Status(code=code, message=text)
    return _message(stream_id, _RESPONSE, ttrpc_pb2.Response(status=status).SerializeToString())


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Reader:
    """Cuts a byte stream into messages: (stream id, type, data). One over MAX_DATA is skipped; its data is None."""

    __slots__ = ("_buffer", "_skipping")

    def __init__(self) -> None:
        self._buffer = bytearray()  # an incomplete message
        self._skipping = 0  # bytes left of a message over MAX_DATA

    def receive_data(self, data: bytes) -> list[tuple[int, int, bytes | None]]:
        if not self._buffer:
            return self._cut(data)
        self._buffer += data
        # A large message comes in many pieces; it is looked at again when it is whole, and copied but once.
        if len(self._buffer) < _HEADER_LENGTH:
            return []
        length = _unpack_header(self._buffer)[0]
        if length <= MAX_DATA and len(self._buffer) < _HEADER_LENGTH + length:
            return []
        whole, self._buffer = self._buffer, bytearray()
        return self._cut(whole)

    def _cut(self, data: bytes | bytearray) -> list[tuple[int, int, bytes | None]]:
        messages: list[tuple[int, int, bytes | None]] = []
        position, end = 0, len(data)
        if self._skipping:
            position = min(self._skipping, end)
            self._skipping -= position
        while end - position >= _HEADER_LENGTH:
            length, stream_id, kind, _flags = _unpack_header(data, position)
            start = position + _HEADER_LENGTH
            if length > MAX_DATA:
                messages.append((stream_id, kind, None))
                position = min(start + length, end)
                self._skipping = start + length - position
            elif end - start >= length:
                position = start + length
                messages.append((stream_id, kind, bytes(memoryview(data)[start:position])))
            else:
                break
        if position < end:
            self._buffer += data[position:]
        return messages

    @property
    def mid_message(self) -> bool:
        return bool(self._buffer or self._skipping)


class ServerConnection:
    """The side that answers."""

    __slots__ = ("_last_stream_id", "_reader", "_unanswered")

    def __init__(self) -> None:
        self._reader = _Reader()
        self._last_stream_id = 0
        self._unanswered: set[int] = set()

    @property
    def mid_message(self) -> bool:
        """Whether the stream, if it ended now, would end inside a message."""
        return self._reader.mid_message

    def receive_data(self, data: bytes) -> list[Request | Refused]:
        """Take bytes of the client and return the calls they complete.

        Raises RemoteProtocolError when the client sends a message that only a server may send.
        """
        return [
            event
            for stream_id, kind, body in self._reader.receive_data(data)
            if (event := self._event(stream_id, kind, body)) is not None
        ]

    def _event(self, stream_id: int, kind: int, body: bytes | None) -> Request | Refused | None:
        if body is None:
            return _refused(stream_id, Code.RESOURCE_EXHAUSTED, f"message is over the limit of {MAX_DATA} bytes")
        if kind == _REQUEST:
            return self._request(stream_id, body)
        if kind == _DATA:
            return _refused(stream_id, Code.INVALID_ARGUMENT, "no stream is open under this id")
        if kind == _RESPONSE:
            raise RemoteProtocolError("the client sent a response")
        return None  # reserved for versions to come; the Go implementation ignores it too

    def _request(self, stream_id: int, body: bytes) -> Request | Refused:
        if not stream_id & 1:
            return _refused(stream_id, Code.INVALID_ARGUMENT, "stream ids of a client must be odd")
        if stream_id <= self._last_stream_id:
            return _refused(stream_id, Code.INVALID_ARGUMENT, "stream ids must grow")
        self._last_stream_id = stream_id
        try:
            request = ttrpc_pb2.Request.FromString(body)
        except DecodeError:
            return _refused(stream_id, Code.INVALID_ARGUMENT, "the request cannot be decoded")
        self._unanswered.add(stream_id)
        return Request(stream_id, request.service, request.method, request.payload, request.timeout_nano)

    def send_response(self, stream_id: int, payload: bytes) -> list[bytes]:
        """Answer a Request with the serialised message of its method.

        Raises MessageTooLargeError (the call can still be answered by `send_error`), or LocalProtocolError
        when there is no unanswered call with this id.
        """
        # Response{payload}, written by hand: the field's tag, its length, and the payload as it is.
        data = b"\x12" + _varint(len(payload)) + payload if len(payload) else b""
        if len(data) > MAX_DATA:
            raise MessageTooLargeError(f"a response of {len(payload)} bytes is over the limit of {MAX_DATA} bytes")
        self._answer(stream_id)
        return _message(stream_id, _RESPONSE, data)

    def send_error(self, stream_id: int, code: Code, message: str) -> list[bytes]:
        """Answer a Request with a failure. A text over 16 Ki characters is cut.

        Raises LocalProtocolError when there is no unanswered call with this id, or when the code is OK.
        """
        if code == Code.OK:
            raise LocalProtocolError("an error cannot have the code OK")
        self._answer(stream_id)
        return _error(stream_id, code, message)

    def _answer(self, stream_id: int) -> None:
        try:
            self._unanswered.remove(stream_id)
        except KeyError:
            raise LocalProtocolError(f"stream {stream_id} has no call to answer") from None


def _refused(stream_id: int, code: Code, message: str) -> Refused:
    return Refused(stream_id, code, message, _error(stream_id, code, message))


class ClientConnection:
    """The side that calls."""

    __slots__ = ("_next_stream_id", "_pending", "_reader")

    def __init__(self) -> None:
        self._reader = _Reader()
        self._next_stream_id = 1
        self._pending: set[int] = set()

    @property
    def mid_message(self) -> bool:
        """Whether the stream, if it ended now, would end inside a message."""
        return self._reader.mid_message

    def send_request(
        self,
        service: str,
        method: str,
        payload: bytes,
        timeout_nano: int = 0,
    ) -> tuple[int, list[bytes]]:
        """Begin a call; `timeout_nano` 0 sets no limit. Return the id its Response will carry, and the
        writes.

        Calls must reach the peer in the order in which they were begun. Raises MessageTooLargeError, or
        LocalProtocolError when all stream ids are used up.
        """
        stream_id = self._next_stream_id
        if stream_id > 0xFFFFFFFF:
            raise LocalProtocolError("all stream ids of this connection are used up")
        message = ttrpc_pb2.Request(service=service, method=method, payload=payload, timeout_nano=timeout_nano)
        data = message.SerializeToString()
        if len(data) > MAX_DATA:
            raise MessageTooLargeError(f"a request of {len(data)} bytes is over the limit of {MAX_DATA} bytes")
        self._next_stream_id += 2
        self._pending.add(stream_id)
        return stream_id, _message(stream_id, _REQUEST, data)

    def abandon(self, stream_id: int) -> None:
        """Give up waiting for a call. Its response, should it still come, is dropped."""
        self._pending.discard(stream_id)

    def receive_data(self, data: bytes) -> list[Response]:
        """Take bytes of the server and return the answers they complete.

        Raises RemoteProtocolError for a response to a call that was never made, one that cannot be decoded,
        and messages that a server may not send to a unary call.
        """
        return [
            response
            for stream_id, kind, body in self._reader.receive_data(data)
            if (response := self._response(stream_id, kind, body)) is not None
        ]

    def _response(self, stream_id: int, kind: int, body: bytes | None) -> Response | None:
        if kind == _REQUEST:
            raise RemoteProtocolError("the server sent a request")
        if kind not in (_RESPONSE, _DATA):
            return None  # reserved for versions to come; the Go implementation ignores it too
        if not stream_id & 1 or stream_id >= self._next_stream_id:
            raise RemoteProtocolError(f"the server answered stream {stream_id}, which was never opened")
        if kind == _DATA:
            raise RemoteProtocolError(f"the server sent stream data to the unary call on stream {stream_id}")
        try:
            self._pending.remove(stream_id)  # one step, since another thread may abandon the call right now
        except KeyError:
            return None
        if body is None:
            text = f"the response is over the limit of {MAX_DATA} bytes"
            return Response(stream_id, Code.RESOURCE_EXHAUSTED, text, b"")
        try:
            response = ttrpc_pb2.Response.FromString(body)
        except DecodeError:
            raise RemoteProtocolError(f"the response on stream {stream_id} cannot be decoded") from None
        return Response(stream_id, Code(response.status.code), response.status.message, response.payload)
