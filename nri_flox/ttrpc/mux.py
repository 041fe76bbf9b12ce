"""Several byte streams over one: the multiplexer below NRI's ttrpc, as a state machine without a socket.

Each frame is a connection id (u32, big endian), a length (u32, big endian) and that many bytes. There is no
opening, closing or flow control; a stream exists when both sides have agreed on its number beforehand. Source
of the format: github.com/containerd/nri, pkg/net/multiplex.
"""

from struct import Struct

_HEADER = Struct(">II")
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from

MAX_PAYLOAD = 10 + (4 << 20)
"""Most bytes of one frame: the largest ttrpc message with its header, as in Go's multiplexer."""


def frame(connection_id: int, payload: bytes) -> bytes:
    """Return `payload` framed for one stream. A peer in Go hands each frame to its reader as one read."""
    if len(payload) <= MAX_PAYLOAD:
        return _pack_header(connection_id, len(payload)) + payload
    cuts = range(0, len(payload), MAX_PAYLOAD)
    return b"".join(frame(connection_id, payload[cut : cut + MAX_PAYLOAD]) for cut in cuts)


class Demultiplexer:
    """Takes the bytes of the shared stream apart. Frames may arrive cut or joined in any way."""

    __slots__ = ("_connection_id", "_header", "_remaining")

    def __init__(self) -> None:
        self._header = b""  # the beginning of a frame header whose end has not come yet
        self._connection_id = 0
        self._remaining = 0  # bytes of the current frame still to come

    def receive_data(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (connection id, bytes) in order. Bytes are passed on as they come, without waiting for a frame's
        end; what came together for one connection is in one piece.
        """
        if self._header:
            data = self._header + data
            self._header = b""
        pieces: list[tuple[int, bytes]] = []
        position, end, remaining = 0, len(data), self._remaining
        while position < end:
            if not remaining:
                if end - position < 8:
                    self._header = data[position:]
                    break
                self._connection_id, remaining = _unpack_header(data, position)
                position += 8
                continue
            piece = data[position : position + remaining]
            position += len(piece)
            remaining -= len(piece)
            if pieces and pieces[-1][0] == self._connection_id:
                # Go's side cuts a message of more than 4096 bytes.
                piece = pieces.pop()[1] + piece
            pieces.append((self._connection_id, piece))
        self._remaining = remaining
        return pieces

    @property
    def mid_frame(self) -> bool:
        """Whether the stream, if it ended now, would end inside a frame."""
        return bool(self._header or self._remaining)
