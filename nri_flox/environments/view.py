"""Views: the closure of an environment laid out once as a tree of hard links, which containers mount as /nix/store.

A view lies on the store's own file system, costs directories but no copy of data, and needs one bind mount in a
container and none on the node. It is built under a temporary name and renamed when it is whole, so that a view which
exists is complete, whatever happened on the way. Nothing in it is followed: a symlink is linked as the symlink it is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nri_flox.flox.store import Store, StorePath

UNFINISHED = ".building-"
"""How the names of what is being built in the view directory begin; a later process sweeps them away."""
# Levels of directories in a store path. Two descriptors are open for each, and a service has 1,024 in most places.
_MAX_DEPTH = 128
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ViewError(Exception):
    """The view can't be built here; the text says why and what would help."""


class _Odd(Exception):
    """A store path holds what none may; the text goes on from its name."""


def lay_out(view_dir: str, store: Store, path: StorePath, closure: Iterable[StorePath]) -> str:
    """The directory below `view_dir` with the view of `path`, built unless it is there already.

    Raises ViewError, and OSError for what the file system says (ENOSPC, EDQUOT, EIO ...); nothing is left then.
    """
    view = os.path.join(view_dir, path.name)
    if os.path.isdir(view):
        return view
    building = os.path.join(view_dir, f"{UNFINISHED}{os.urandom(4).hex()}-{path.name}")
    os.mkdir(building, 0o700)
    try:
        with _opened(building) as target, _opened(store.directory) as source:
            for member in sorted(closure):
                try:
                    _link(source, target, member.name)
                except _Odd as odd:
                    raise ViewError(f"{member} {odd}") from None
            os.fchmod(target, 0o555)
        os.rename(building, view)
    except OSError as error:
        remove(building)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and os.path.isdir(view):
            return view  # another worker was quicker
        if error.errno == errno.EXDEV:
            raise ViewError(
                f"the views at {view_dir} are on another file system or mount than the store at {store.directory}; "
                "set nix.view_dir to a directory beside the store"
            ) from None
        raise
    except BaseException:
        remove(building)
        raise
    return view


def prepare(view_dir: str) -> None:
    """Make `view_dir`."""
    os.makedirs(view_dir, exist_ok=True)
    # Containers reach their view through the mount. Others on the node may pass, not list.
    os.chmod(view_dir, 0o711)  # noqa: S103


def unfinished(view_dir: str) -> list[str]:
    """What is being built in `view_dir`, or was when an earlier process was killed. No name comes twice."""
    return [os.path.join(view_dir, name) for name in os.listdir(view_dir) if name.startswith(UNFINISHED)]


def _link(source: int, target: int, name: str) -> None:
    """Link the entry `name` of the directory `source` into the directory `target`, with all that is below it."""
    mode = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
    if not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise _Odd("is neither file, directory nor symlink")
        _link_file(source, target, name)
        return
    stack = [_Level(source, target, name)]
    try:
        while stack:
            level = stack[-1]
            if level.below:
                if len(stack) == _MAX_DEPTH:
                    raise _Odd(f"has directories nested deeper than {_MAX_DEPTH} levels")
                stack.append(_Level(level.source, level.target, level.below.pop()))
            else:
                level.finish()
                stack.pop().close()
    finally:
        while stack:
            stack.pop().close()


class _Level:
    """One directory on the way down: its files are linked, the directories in `below` are still to be done."""

    def __init__(self, source: int, target: int, name: str) -> None:
        os.mkdir(name, 0o755, dir_fd=target)
        self.source = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            self.target = os.open(name, _DIRECTORY, dir_fd=target)
        except OSError:
            os.close(self.source)
            raise
        self.below: list[str] = []
        try:
            with os.scandir(self.source) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self.below.append(entry.name)
                    elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                        _link_file(self.source, self.target, entry.name)
                    else:
                        raise _Odd(f"holds {entry.name!r}, which is neither file, directory nor symlink")
        except BaseException:
            self.close()
            raise

    def finish(self) -> None:
        # Programs such as fontconfig compare the times of directories with their caches.
        found = os.fstat(self.source)
        os.fchmod(self.target, stat.S_IMODE(found.st_mode) & 0o777)
        os.utime(self.target, ns=(found.st_atime_ns, found.st_mtime_ns))

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


def _link_file(source: int, target: int, name: str) -> None:
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        # A file system has only so many links to one file (65,000 on ext4); past that, the view has a copy.
        if error.errno != errno.EMLINK:
            raise
        _copy(source, target, name)


def _copy(source: int, target: int, name: str) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        return
    read = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        write = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(write, read, None, 1 << 24):
                pass
            os.fchmod(write, stat.S_IMODE(found.st_mode) & 0o777)
            os.utime(write, ns=(found.st_atime_ns, found.st_mtime_ns))
            os.fsync(write)  # Links survive a power cut with the directory that they are in; what is written may not.
        finally:
            os.close(write)
    finally:
        os.close(read)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    directory = os.open(path, _DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)


def remove(path: str) -> None:
    """Remove what may lie at `path`."""
    from shutil import rmtree  # It brings in every archive format; only repairs and failures need it.

    if os.path.lexists(path):
        rmtree(path)
