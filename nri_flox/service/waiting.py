"""How long requests may wait, all together.

While one request waits, the runtime creates no container on the whole node. So beside the budget of each there is one
for all: a share of any ten seconds. Once it is used up, answers come at once.
"""

from __future__ import annotations

from collections import deque

WINDOW = 10.0  # seconds


class WaitShare:
    def __init__(self, share: float) -> None:
        """`share` is the part of any WINDOW that may be waited."""
        self._allowed = share * WINDOW
        self._waits: deque[tuple[float, float]] = deque()  # begin and end, monotonic seconds

    def left(self, now: float) -> float:
        """The seconds that a wait which begins now may take."""
        while self._waits and self._waits[0][1] <= now - WINDOW:
            self._waits.popleft()
        used = sum(end - max(begin, now - WINDOW) for begin, end in self._waits)
        return max(0.0, self._allowed - used)

    def used(self, begin: float, end: float) -> None:
        self._waits.append((begin, end))
