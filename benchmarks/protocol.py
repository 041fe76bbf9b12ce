"""Both plugins through Go's adaptation, in turns: each round starts each plugin anew, one at a time.

The stub gives the very answer that was recorded of our plugin, and the runtime checks every answer against it, so
both are asked the same and say the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .figures import Row, p99, ratio
from .rig import Answer, Runtime

SPACING = 0.002
"""Seconds between requests of the spaced measure: a plugin on a node is asleep when it is asked."""

_WARM_UP = 300


@dataclass(frozen=True, slots=True)
class Load:
    """How many requests each plugin gets in each round."""

    back_to_back: int
    spaced: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What was measured of one plugin process. Times in seconds, memory in bytes."""

    registered: float
    synchronized: float
    adjusted: list[float]
    adjusted_spaced: list[float]
    bystander: list[float]
    bystander_spaced: list[float]
    processor: float  # for one adjusted container, all threads
    processor_bystander: float
    rss: int
    pss: int


def processor(pid: int) -> float:
    """Seconds that all threads of a process have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def memory(pid: int) -> tuple[int, int]:
    """Resident and proportional set size of a process, in bytes."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    return fields["Rss"], fields["Pss"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rounds of two plugins: `ours[k]` and `other[k]` were measured one after the other."""

    answer: Answer
    ours: tuple[Turn, ...]
    other: tuple[Turn, ...]


def compare(
    runtime: Runtime,
    ours: Sequence[str],
    stub: Sequence[str],
    *,
    answer: Path,
    log: Path,
    rounds: int,
    load: Load,
) -> Comparison:
    """Measure `ours` and `stub` (command lines; the stub is given the answer's file) in `rounds` turns each."""
    runtime.connect(ours, log)
    recorded = runtime.record(answer)
    runtime.disconnect()
    stub = [*stub, f"-answer={answer}"]
    turns: dict[bool, list[Turn]] = {True: [], False: []}
    for number in range(rounds):
        # Whoever comes second finds warmer caches: change places.
        for is_ours in (True, False) if number % 2 == 0 else (False, True):
            turns[is_ours].append(_turn(runtime, ours if is_ours else stub, log, load))
    return Comparison(recorded, tuple(turns[True]), tuple(turns[False]))


def _turn(runtime: Runtime, argv: Sequence[str], log: Path, load: Load) -> Turn:
    plugin = runtime.connect(argv, log)
    try:
        runtime.await_answer()
        runtime.create(_WARM_UP)
        clock = [processor(plugin.pid)]
        adjusted = runtime.create(load.back_to_back)
        clock.append(processor(plugin.pid))
        bystander = runtime.create(load.back_to_back, bystander=True)
        clock.append(processor(plugin.pid))
        adjusted_spaced = runtime.create(load.spaced, pause=SPACING)
        bystander_spaced = runtime.create(load.spaced, pause=SPACING, bystander=True)
        rss, pss = memory(plugin.pid)
    finally:
        runtime.disconnect()
    return Turn(
        plugin.registered,
        plugin.synchronized,
        adjusted,
        adjusted_spaced,
        bystander,
        bystander_spaced,
        (clock[1] - clock[0]) / load.back_to_back,
        (clock[2] - clock[1]) / load.back_to_back,
        rss,
        pss,
    )


def rows(comparison: Comparison, *, only_requests: bool = False) -> list[Row]:
    """The table of a comparison; `only_requests` leaves out what is about a process rather than its transport."""

    def row(measure: str, unit: str, of: Callable[[Turn], float], scale: float, at_most: float | None = None) -> Row:
        ours = tuple(of(turn) * scale for turn in comparison.ours)
        other = tuple(of(turn) * scale for turn in comparison.other)
        return Row(measure, unit, ours, other, at_most, ratio)

    requests = [
        row("adjusted container, median", "µs", lambda t: median(t.adjusted), 1e6, 0.7),
        row("adjusted container, p99", "µs", lambda t: p99(t.adjusted), 1e6, 1.0),
        row("adjusted container, median, spaced", "µs", lambda t: median(t.adjusted_spaced), 1e6),
        row("adjusted container, p99, spaced", "µs", lambda t: p99(t.adjusted_spaced), 1e6),
        row("bystander, median", "µs", lambda t: median(t.bystander), 1e6, 0.6),
        row("bystander, p99", "µs", lambda t: p99(t.bystander), 1e6),
        row("bystander, median, spaced", "µs", lambda t: median(t.bystander_spaced), 1e6),
        row("bystander, p99, spaced", "µs", lambda t: p99(t.bystander_spaced), 1e6),
        row("processor time, adjusted container", "µs", lambda t: t.processor, 1e6),
        row("processor time, bystander", "µs", lambda t: t.processor_bystander, 1e6),
    ]
    if only_requests:
        return requests
    started = tuple(turn.registered for turn in comparison.ours)
    return [
        *requests,
        row("Synchronize, 500 pods and 2000 containers", "ms", lambda t: t.synchronized, 1e3, 1.0),
        row("resident memory (RSS)", "MB", lambda t: t.rss, 1e-6, 1.5),
        row("proportional memory (PSS)", "MB", lambda t: t.pss, 1e-6),
        Row(
            "start to registered",
            "s",
            started,
            tuple(turn.registered for turn in comparison.other),
            0.5,
            lambda ours, _other: ours,
        ),
    ]
