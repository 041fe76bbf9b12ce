"""Containers on a real containerd: from the CRI call that creates one to the first instruction of its command.

A pair is one container with what is measured and one without, started one after the other; what counts is the median
of the pairs' differences, since a machine that is busy for a while is busy for both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nri_flox.demo import cri
from nri_flox.demo.node import SHELL, Node, Pod

from .figures import Row, difference

CLOSURES = (20, 100, 300)
"""Store paths in the closures that are measured."""

BUSY_ENVIRONMENTS = 50
"""Environments of the largest closure on the node whose bystanders are measured."""

AT_MOST = 3.0
"""Milliseconds that an environment may cost a container."""

# More than the machine does between two pairs must not count as a difference: what a bystander may seem to lose.
NOISE = 1.0
"""Milliseconds that two equal measures may differ."""

_PROBE = "/firstinstruction"
_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds to the first instruction; `on[k]` and `off[k]` were measured one after the other."""

    on: tuple[float, ...]
    off: tuple[float, ...]


def environments(directory: Path, release: str | None, probe: Path, pairs: int) -> dict[int, Pairs]:
    """Containers with an environment against containers without, by the number of store paths in its closure."""
    measured = {}
    with Node(directory, release, settings={"log": {"level": "info"}}) as node:
        plain = node.pod()
        for paths in CLOSURES:
            name = f"bench/closure-{paths}"
            _provide(node, name, paths)
            pod = _ready(node, name)
            measured[paths] = _pairs(partial(_start, pod, probe), partial(_start, plain, probe), pairs)
            pod.remove()
        node.remove_pods()
    return measured


def bystander(directory: Path, release: str | None, probe: Path, pairs: int) -> Pairs:
    """Containers without environment: on a node where each of many pods runs in an environment of its own, against a
    node with as many pods and no environment."""
    settings = {"log": {"level": "info"}}
    with (
        Node(directory / "busy", release, settings=settings) as busy,
        Node(directory / "plain", release, settings=settings) as plain,
    ):
        for number in range(BUSY_ENVIRONMENTS):
            name = f"bench/environment-{number}"
            _provide(busy, name, max(CLOSURES), number)
            for pod in (_ready(busy, name), plain.pod()):
                pod.container(["/bin/sleep", "86400"], image=SHELL).start()
        on, off = busy.pod(), plain.pod()
        measured = _pairs(partial(_start, on, probe), partial(_start, off, probe), pairs)
        busy.remove_pods()
        plain.remove_pods()
    return measured


def _provide(node: Node, name: str, paths: int, number: int = 0) -> None:
    """An environment whose closure has so many store paths."""
    variables = {"NUMBER": str(number)}
    bare = node.provide(name, vars=variables)
    listed = (node.store_dir / bare.name / "requisites.txt").read_text().splitlines()
    node.provide(name, vars=variables, extra_paths=paths - len(listed))


def _ready(node: Node, environment: str) -> Pod:
    """A pod whose environment is on the node."""
    pod = node.pod(environment=environment)
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            pod.container(["/bin/true"], "first", image=SHELL).remove()
        except cri.CreateFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return pod


def _start(pod: Pod, probe: Path) -> float:
    """Seconds from the call that creates a container to its command's first instruction."""
    mount = cri.Mount(probe, _PROBE, read_only=True)
    begin = time.monotonic_ns()
    container = pod.container([_PROBE], image=SHELL, mounts=[mount])
    lines = container.finish().stdout.splitlines()  # the log is that of all containers of this name
    container.remove()
    return (int(lines[-1]) - begin) / 1e9


def _pairs(on: Callable[[], float], off: Callable[[], float], count: int) -> Pairs:
    on(), off()  # the first of each finds cold caches
    measured: dict[bool, list[float]] = {True: [], False: []}
    for number in range(count):
        for with_it in (True, False) if number % 2 == 0 else (False, True):
            measured[with_it].append(on() if with_it else off())
    return Pairs(tuple(measured[True]), tuple(measured[False]))


def rows(closures: dict[int, Pairs], busy: Pairs) -> Sequence[Row]:
    """The table, in milliseconds."""

    def row(measure: str, pairs: Pairs, at_most: float) -> Row:
        on = tuple(seconds * 1e3 for seconds in pairs.on)
        off = tuple(seconds * 1e3 for seconds in pairs.off)
        return Row(measure, "ms", on, off, at_most, difference)

    return [
        *(row(f"environment of {paths} store paths", pairs, AT_MOST) for paths, pairs in closures.items()),
        row(f"bystander, {BUSY_ENVIRONMENTS} environments of {max(CLOSURES)} paths on the node", busy, NOISE),
    ]
