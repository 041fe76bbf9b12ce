"""Frames of the multiplexer, byte by byte, and through every way a stream can be cut."""

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_flox.ttrpc.mux import MAX_PAYLOAD, Demultiplexer, frame

FRAMES = st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(max_size=30)), max_size=8)


def demultiplex(chunks: list[bytes]) -> list[tuple[int, bytes]]:
    """What comes out of the chunks, neighbours of one connection joined."""
    demultiplexer = Demultiplexer()
    pieces = [piece for chunk in chunks for piece in demultiplexer.receive_data(chunk)]
    return [
        (connection_id, b"".join(data for _, data in group))
        for connection_id, group in groupby(pieces, key=lambda piece: piece[0])
    ]


def joined(frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [
        (connection_id, b"".join(data for _, data in group))
        for connection_id, group in groupby((f for f in frames if f[1]), key=lambda item: item[0])
    ]


def test_frame_is_connection_id_length_and_payload() -> None:
    assert frame(2, b"abc") == bytes.fromhex("00000002 00000003") + b"abc"


def test_payload_over_the_limit_of_gos_multiplexer_is_cut() -> None:
    stream = frame(1, b"x" * (MAX_PAYLOAD + 5))
    assert stream[:8] == bytes.fromhex("00000001 0040000a")
    assert stream[8 + MAX_PAYLOAD :] == bytes.fromhex("00000001 00000005") + b"xxxxx"


@given(FRAMES)
def test_joined_frames_come_apart(frames: list[tuple[int, bytes]]) -> None:
    assert demultiplex([b"".join(frame(*item) for item in frames)]) == joined(frames)


@given(FRAMES, st.data())
def test_stream_may_be_cut_anywhere(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(*item) for item in frames)
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream))))})
    assert demultiplex([stream[a:b] for a, b in pairwise(cuts)]) == joined(frames)


def test_stream_may_come_byte_by_byte() -> None:
    stream = frame(1, b"first") + frame(2, b"") + frame(2, b"second")
    assert demultiplex([bytes([byte]) for byte in stream]) == [(1, b"first"), (2, b"second")]


@pytest.mark.parametrize(("seen", "expected"), [(0, False), (3, True), (8, True), (11, True), (13, False)])
def test_knows_whether_a_frame_is_incomplete(seen: int, expected: bool) -> None:
    demultiplexer = Demultiplexer()
    list(demultiplexer.receive_data(frame(1, b"12345")[:seen]))
    assert demultiplexer.mid_frame is expected
