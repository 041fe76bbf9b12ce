"""What a container runtime can do over NRI, from what it says of itself: its name, its version, its NRI
version.

Runtimes ignore what they do not know, without a word, or close the connection over it; so a plugin has to
know beforehand. The NRI version decides. Runtimes name it themselves from NRI 0.12 on; for older ones it
follows from which NRI module each release was built with, read from the runtimes' sources and the NRI
project's own table.
"""

import re
from dataclasses import dataclass
from functools import cached_property

Version = tuple[int, int, int]

OLDEST: Version = (0, 2, 0)
"""What an unknown runtime is taken to have: the first NRI with today's protocol, in cri-o 1.26."""

# Runtime releases with which the NRI version changed, newest first: every release from there on has it.
_CONTAINERD: tuple[tuple[Version, Version], ...] = (
    ((2, 3, 0), (0, 12, 0)),
    ((2, 2, 1), (0, 11, 0)),
    ((2, 2, 0), (0, 10, 0)),
    ((1, 7, 26), (0, 8, 0)),
    ((1, 7, 16), (0, 6, 1)),
    ((1, 7, 14), (0, 6, 0)),
    ((1, 7, 7), (0, 4, 0)),
    ((1, 7, 0), (0, 3, 0)),
)
_CRIO: tuple[tuple[Version, Version], ...] = (
    ((1, 35, 0), (0, 11, 0)),
    ((1, 34, 0), (0, 10, 0)),
    ((1, 32, 0), (0, 9, 0)),
    ((1, 31, 0), (0, 6, 1)),
    ((1, 29, 2), (0, 6, 0)),
    ((1, 29, 0), (0, 5, 0)),
    ((1, 26, 2), (0, 3, 0)),
    ((1, 26, 0), (0, 2, 0)),
)
_RELEASES = {"containerd": _CONTAINERD, "cri-o": _CRIO}

_EVENTS_OF_OLD = 11
_EVENTS = 14

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?P<before>[-~.]?(?:alpha|beta|rc))?")


@dataclass(frozen=True)
class Capabilities:
    """What one runtime understands."""

    runtime_name: str
    runtime_version: str
    nri: Version

    @classmethod
    def of(cls, runtime_name: str, runtime_version: str, nri_version: str = "") -> "Capabilities":
        """Tell from the words of a Configure request; `nri_version` is empty before NRI 0.12.

        Versions may be written as distributions do: `1.7.24~ds1`, `2.1.9+unknown`, `v2.3.4`. A pre-release is
        taken to lack what its release brings, and what cannot be understood to be as old as can be.
        """
        nri = _parse(nri_version) or _inferred(runtime_name, runtime_version)
        return cls(runtime_name, runtime_version, nri)

    @property
    def rewrites_args(self) -> bool:
        """Whether an adjustment can replace a container's command. Without it `args` is ignored silently."""
        return self.nri >= (0, 10, 0)

    @property
    def splits_synchronize(self) -> bool:
        """Whether a large node arrives in several Synchronize requests. Without it one over 4 MiB never
        arrives.
        """
        return self.nri >= (0, 7, 0)

    @property
    def own_event_methods(self) -> bool:
        """Whether each event has a method of its own, where older runtimes send most as StateChange."""
        return self.nri >= (0, 12, 0)

    @cached_property
    def events(self) -> frozenset[int]:
        """The events, as numbers, that may be subscribed to. The runtime closes the connection over any
        other.
        """
        return frozenset(range(1, 1 + (_EVENTS if self.nri >= (0, 10, 0) else _EVENTS_OF_OLD)))

    @property
    def release_with_args(self) -> str:
        """The first release of this runtime that rewrites args, for messages: `containerd 2.2`."""
        return "cri-o 1.34" if self.runtime_name == "cri-o" else "containerd 2.2"

    def __str__(self) -> str:
        """Name the runtime in a message: `containerd 1.7.24 (NRI 0.6)`."""
        name = f"{self.runtime_name or 'an unknown runtime'} {_short(self.runtime_version)}".rstrip()
        return f"{name} (NRI {self.nri[0]}.{self.nri[1]})"


def _inferred(runtime_name: str, runtime_version: str) -> Version:
    match = _VERSION.match(runtime_version)
    if match is None:
        return OLDEST
    version = _numbers(match)
    for release, nri in _RELEASES.get(runtime_name, ()):
        if version > release or (version == release and not match["before"]):
            return nri
    return OLDEST


def _parse(nri_version: str) -> Version | None:
    match = _VERSION.match(nri_version)
    # A runtime whose build knows nothing of its modules says 0.0.0-unknown.
    if match is None or _numbers(match) == (0, 0, 0):
        return None
    return _numbers(match)


def _numbers(match: re.Match[str]) -> Version:
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _short(version: str) -> str:
    match = _VERSION.match(version)
    return match[0].removeprefix("v") if match else version
