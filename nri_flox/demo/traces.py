"""What a private node leaves in the kernel, found and taken away: processes, cgroups, mounts.

All of it is known by the node's own directory or cgroup, not by what somebody wrote down when it was made: so nothing
stays, also of what was interrupted halfway.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PATIENCE = 5.0  # seconds until something is done about what does not go
_PAUSE = 0.005  # seconds between looks


def end_processes(directory: Path) -> None:
    """SIGTERM for all processes with a path below `directory` in their arguments, SIGKILL when that is of no use;
    returns when they are gone."""
    patience = time.monotonic() + _PATIENCE
    while remaining := _processes(directory):
        _signal(remaining, signal.SIGKILL if time.monotonic() > patience else signal.SIGTERM)
        time.sleep(_PAUSE)


def kill_contained(cgroup: str) -> None:
    """SIGKILL for all processes in `cgroup` ("/name") and below; returns when they are gone, or after some seconds."""
    patience = time.monotonic() + _PATIENCE
    while (contained := _contained(cgroup)) and time.monotonic() < patience:
        _signal(contained, signal.SIGKILL)
        time.sleep(_PAUSE)


def remove_cgroup(cgroup: str) -> None:
    """Removes `cgroup` ("/name") and all below from every hierarchy; raises `OSError` if processes stay in it."""
    for root in _hierarchies(cgroup):
        for place, _, _ in os.walk(root, topdown=False):
            _remove_directory(place)


def unmount(directory: Path) -> None:
    """Takes away all mounts below `directory`."""
    below = f"{directory.resolve()}/"
    while places := [mount.place for mount in _mounts() if mount.place.startswith(below)]:
        # The newest first: it may lie on top of another.
        subprocess.run(["umount", "--lazy", *reversed(places)], capture_output=True, check=True)


def _processes(directory: Path) -> list[int]:
    prefix = os.fsencode(f"{directory}/")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if any(argument.startswith(prefix) for argument in arguments):
                found.append(int(process.name))
    return found


def _contained(cgroup: str) -> list[int]:
    found = []
    for root in _hierarchies(cgroup):
        for place, _, _ in os.walk(root):
            with suppress(OSError):  # it went away meanwhile, or takes no processes itself
                found += [int(line) for line in Path(place, "cgroup.procs").read_text().split()]
    return found


def _hierarchies(cgroup: str) -> list[Path]:
    """Where `cgroup` is: once in each hierarchy of cgroup v1, once altogether in v2."""
    roots = [mount.place for mount in _mounts() if mount.kind in ("cgroup", "cgroup2")]
    return [place for root in roots if (place := Path(root + cgroup)).is_dir()]


@dataclass(frozen=True, slots=True)
class _Mount:
    place: str
    kind: str


def _mounts() -> list[_Mount]:
    """The mounts of this process's namespace, oldest first (proc(5), `mountinfo`)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, after = line.partition(" - ")
        # Blanks and the like in a path are written as three octal digits.
        place = re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), fields.split(" ")[4])
        found.append(_Mount(place, after.split(" ")[0]))
    return found


def _remove_directory(place: str) -> None:
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            os.rmdir(place)
        except OSError as error:
            # Processes that were killed just now may still count.
            if error.errno != errno.EBUSY or time.monotonic() > patience:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _signal(pids: Iterable[int], which: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, which)
