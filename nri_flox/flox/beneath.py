"""Reading a file below a directory whose content somebody else wrote.

Rendered environments and the secret volumes of pods are filled by people the node has no reason to trust, so
a plain `open` is out of the question: a symlink may lead anywhere, a FIFO blocks, a device has side effects,
a file may be endless. Here every component is opened by itself with O_PATH and O_NOFOLLOW, which touches
nothing; symlinks are followed by us, under the caller's rules; and only what has turned out to be a regular
file is opened for reading, through the very descriptor that was examined, so nothing can be swapped in
between. This module knows nothing about what is in the files, nor about stores and secrets.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As many as the kernel follows before it says ELOOP.
_MAX_LINKS = 40
# A directory stays open for each level, so that `..` goes back the way we came.
_MAX_DEPTH = 64

_NOT_UTF_8 = re.compile("[\ud800-\udfff]")


class UnsafeFile(Exception):
    """Reading this would break the rules; the text goes on from "it cannot be read: "."""


def read_regular(
    root: str,
    relative: str,
    *,
    limit: int,
    known_as: str | None = None,
    admits: Callable[[str], bool] | None = None,
) -> bytes:
    """The whole content of the regular file `relative` below the directory `root`, at most `limit` bytes.

    `root` itself is trusted. Symlinks are followed as long as they stay below it. An absolute one does only
    if `known_as` is given, the path under which links know `root`, and the target lies below that. `admits`
    says of each direct child of `root` whether it may be entered, by whatever way it is reached.

    Never blocks on what it finds there. Raises FileNotFoundError, UnsafeFile, or another OSError when the
    file system itself fails.
    """
    with _walked(root, relative, known_as, admits, follow_last=True) as (found, _):
        mode = os.fstat(found).st_mode
        if not stat.S_ISREG(mode):
            raise UnsafeFile(f"it is {_kind(mode)}, not a regular file")
        # Reopening the examined descriptor: the name may mean something else by now, the descriptor cannot.
        file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return _read_at_most(file, limit)
        finally:
            os.close(file)


def is_present(
    root: str,
    relative: str,
    *,
    known_as: str | None = None,
    admits: Callable[[str], bool] | None = None,
) -> bool:
    """Whether there is any entry `relative` below `root`: a dangling symlink or a FIFO counts too.

    The rules for the way there, and the errors, are those of `read_regular`.
    """
    try:
        with _walked(root, relative, known_as, admits, follow_last=False):
            return True
    except FileNotFoundError:
        return False


def list_directory(
    root: str,
    relative: str,
    *,
    limit: int,
    known_as: str | None = None,
    admits: Callable[[str], bool] | None = None,
) -> list[str]:
    """The names in the directory `relative` below `root`, at most `limit` of them; those that are no UTF-8 are left
    out.

    The rules for the way there, and the errors, are those of `read_regular`.
    """
    with _walked(root, relative, known_as, admits, follow_last=True) as (found, _):
        mode = os.fstat(found).st_mode
        if not stat.S_ISDIR(mode):
            raise UnsafeFile(f"it is {_kind(mode)}, not a directory")
        names: list[str] = []
        with os.scandir(f"/proc/self/fd/{found}") as entries:
            for entry in entries:
                if len(names) == limit:
                    raise UnsafeFile(f"it has more than {limit} entries")
                names.append(entry.name)
    return [name for name in names if not _NOT_UTF_8.search(name)]


def find_executable(
    root: str,
    relative: str,
    *,
    known_as: str | None = None,
    admits: Callable[[str], bool] | None = None,
) -> str | None:
    """Where below `root` the executable file lies that `relative` leads to: a path without any symlink in it.

    None where there is no such file, or none that the rules of `read_regular` allow. Raises OSError when the file
    system itself fails.
    """
    try:
        with _walked(root, relative, known_as, admits, follow_last=True) as (found, path):
            mode = os.fstat(found).st_mode
            return path if stat.S_ISREG(mode) and mode & 0o111 else None
    except (FileNotFoundError, UnsafeFile):
        return None


@contextlib.contextmanager
def _walked(
    root: str, relative: str, known_as: str | None, admits: Callable[[str], bool] | None, *, follow_last: bool
) -> Iterator[tuple[int, str]]:
    """An O_PATH descriptor of what `relative` leads to, and the path below the root that it was opened by."""
    pending = _components(relative)
    links = 0
    names: list[str] = []  # of all in the trail but the root
    # The way from the root to where we are; all but the last are directories.
    trail = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        while pending:
            name = pending.pop()
            if name == "..":
                if len(trail) == 1:
                    raise UnsafeFile("it leads out of its directory")
                os.close(trail.pop())
                names.pop()
                continue
            if len(trail) == 1 and admits is not None and not admits(name):
                raise UnsafeFile(f"it leads to {name[:200]!r}, which does not belong to it")
            if len(trail) > _MAX_DEPTH:
                raise UnsafeFile("it leads through too many directories")
            entry = _open_entry(trail[-1], name)
            trail.append(entry)
            names.append(name)
            mode = os.fstat(entry).st_mode
            if stat.S_ISLNK(mode) and (pending or follow_last):
                links += 1
                if links > _MAX_LINKS:
                    raise UnsafeFile("it leads through too many symlinks")
                target = os.readlink("", dir_fd=entry)
                os.close(trail.pop())
                names.pop()
                if target.startswith("/"):
                    target = _below(target, known_as)
                    while len(trail) > 1:
                        os.close(trail.pop())
                    names.clear()
                pending += _components(target)
            elif pending and not stat.S_ISDIR(mode):
                raise FileNotFoundError(f"{relative!r} leads through {_kind(mode)}")
        yield trail[-1], "/".join(names)
    finally:
        for descriptor in trail:
            os.close(descriptor)


def _components(path: str) -> list[str]:
    """The names of a path, last first, so that the next one is at the end."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _open_entry(directory: int, name: str) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except ValueError:  # a NUL, or text that is no file name
        raise UnsafeFile("its path is no file name") from None


def _below(target: str, known_as: str | None) -> str:
    """An absolute target as a path below the root."""
    if known_as is None or not target.startswith(f"{known_as}/"):
        raise UnsafeFile(f"it leads to {target[:200]!r}, out of its directory")
    return target.removeprefix(f"{known_as}/")


def _read_at_most(file: int, limit: int) -> bytes:
    chunks: list[bytes] = []
    room = limit + 1
    while room and (chunk := os.read(file, min(room, 1 << 20))):
        chunks.append(chunk)
        room -= len(chunk)
    if not room:
        raise UnsafeFile(f"it is larger than {limit} bytes")
    return b"".join(chunks)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISREG(mode):
        return "a file"
    return "a device"
