"""From measurements to figures: pure arithmetic, no clock and no process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

_MANY = 10


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def p99(values: Sequence[float]) -> float:
    """What one request in a hundred exceeds."""
    return percentile(values, 0.99)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: what was measured of two candidates in several rounds, and what was asked for.

    `ours` and `other` hold one figure for each round, in the same order: round k of both was measured back to back.
    """

    measure: str
    unit: str
    ours: tuple[float, ...]
    other: tuple[float, ...] = ()
    at_most: float | None = None
    compare: Callable[[float, float], float] | None = None

    @property
    def compared(self) -> tuple[float, ...]:
        """The rounds' own comparisons: a machine that is slow for a while is slow for both."""
        if self.compare is None:
            return self.ours
        return tuple(self.compare(ours, other) for ours, other in zip(self.ours, self.other, strict=True))

    @property
    def result(self) -> float:
        """What the target is about."""
        return median(self.compared)

    @property
    def spread(self) -> tuple[float, float]:
        """Between which the comparisons lie: all of a few, the middle half of many."""
        if len(self.compared) < _MANY:
            return min(self.compared), max(self.compared)
        low, _, high = quantiles(self.compared)
        return low, high

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without one."""
        return None if self.at_most is None else self.result <= self.at_most


def ratio(ours: float, other: float) -> float:
    """How many times the other's."""
    return ours / other


def difference(ours: float, other: float) -> float:
    """How much more than the other's."""
    return ours - other
