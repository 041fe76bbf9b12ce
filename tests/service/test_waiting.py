"""Waits of all requests together stay below their share of any ten seconds."""

from hypothesis import given
from hypothesis import strategies as st

from nri_flox.service.waiting import WINDOW, WaitShare


def test_share_is_used_up_and_comes_back() -> None:
    waits = WaitShare(0.1)
    assert waits.left(100) == 1.0
    waits.used(100, 100.6)
    assert abs(waits.left(101) - 0.4) < 1e-9
    waits.used(101, 101.4)
    assert waits.left(102) < 1e-9
    assert abs(waits.left(110.3) - 0.3) < 1e-9
    assert waits.left(120) == 1.0


def test_no_share_means_no_wait() -> None:
    assert WaitShare(0).left(5) == 0


@given(share=st.floats(0, 1), pauses=st.lists(st.floats(0, 8), max_size=30), wish=st.floats(0, 5))
def test_no_window_ever_holds_more_than_the_share(share: float, pauses: list[float], wish: float) -> None:
    waits, now = WaitShare(share), 0.0
    taken: list[tuple[float, float]] = []
    for pause in pauses:
        now += pause
        wait = min(wish, waits.left(now))
        waits.used(now, now + wait)
        taken.append((now, now + wait))
        now += wait
    for end in (end for _, end in taken):
        inside = sum(max(0.0, min(e, end) - max(b, end - WINDOW)) for b, e in taken)
        assert inside <= share * WINDOW + 1e-6
