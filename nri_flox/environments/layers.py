"""Writable layers: what a container with a `/nix` of its own writes to, limited in size and gone with the container.

A layer is a file system of its own in a sparse file. That limits bytes and inodes on every node with loop devices and
ext4, where quotas need a file system that was mounted for them and a kernel that was built for them; and a container
that fills its layer is told so like by any full disk, and takes nothing from others. Making one takes a few hundred
milliseconds, so one is kept in stock once the first was asked for. A layer that is in use, ready or in stock is one
mount on the node; the mount goes when its container does.

The Nix database in a layer is a copy, never a view of the node's: one that is being written can't be read through an
overlay.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from nri_flox.environments.catalogue import Catalogue
from nri_flox.environments.closure import NoClosure, closure
from nri_flox.environments.database import copy_of_closures
from nri_flox.environments.lane import Lane
from nri_flox.environments.realiser import Layout
from nri_flox.environments.source import fault_of
from nri_flox.environments.view import ViewError, lay_out
from nri_flox.flox.environment import Environment, Failure, Fault, Layer, Tool
from nri_flox.flox.store import STORE_DIR, StorePath
from nri_flox.flox.wording import clean

_TIMEOUT = 60.0  # seconds for mkfs, mount and umount, each

# What a container may not lack inside, whoever it runs as: Nix makes files in all of them.
_NIX_DIRECTORIES = ("var/nix/db", "var/nix/gcroots", "var/nix/profiles", "var/nix/temproots", "var/log/nix/drvs")


class Layers:
    """Makes and removes layers in a worker of its own, and publishes those that are ready in the catalogue."""

    def __init__(
        self,
        directory: str,
        layout: Layout,
        flox: str,
        size: int,
        min_free: float,
        catalogue: Catalogue,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        """Layers of `size` bytes go below `directory`, which is made when it is needed. None is made while less than
        the share `min_free` of its file system is free. `flox` is the executable of the node's Flox.
        """
        self._layers = os.path.join(directory, "layers")
        self._databases = os.path.join(directory, "databases")
        self._layout = layout
        self._flox = flox
        self._size = size
        self._min_free = min_free
        self._catalogue = catalogue
        self._asked: set[StorePath] = set()
        self._stock: list[Layer] = []  # what only the worker touches
        self._lane = Lane("layers", 1, on_error)

    def ask(self, environment: Environment) -> None:
        """Have a layer for a container in `environment` made; the catalogue tells when it is. Never waits."""
        if environment.store_path not in self._asked:
            self._asked.add(environment.store_path)
            self._lane.put(lambda: self._provide(environment))

    def remove(self, layer: Layer) -> None:
        """Have a layer removed whose container is gone. Never waits."""
        self._lane.put(lambda: _remove(layer))

    def sweep(self) -> None:
        """Have all layers removed that no container has and none will get. Never waits."""
        self._lane.put(self._sweep)

    def close(self, timeout: float) -> None:
        """End the worker. Layers of containers stay."""
        self._lane.put(self._empty_stock)
        self._lane.close(timeout)

    def _provide(self, environment: Environment) -> None:
        path = environment.store_path
        try:
            if isinstance(self._catalogue.layer(path), Layer):
                return
            outcome = self._furnished(path)
            self._catalogue.publish_layer(path, outcome)
        finally:
            self._asked.discard(path)
        if isinstance(outcome, Layer) and not self._stock:
            self._stock.append(self._made())

    def _furnished(self, path: StorePath) -> Layer | Failure:
        """A layer for the environment at `path`, or why there is none."""
        try:
            flox = node_flox(self._flox, self._layout)
            roots = (path,) if flox is None else (path, flox.store_path)
            database = os.path.join(self._databases, "-".join(root.name[:32] for root in roots))
            if not os.path.exists(database):
                os.makedirs(self._databases, mode=0o700, exist_ok=True)
                copy_of_closures(self._layout.state_dir, roots, database)
            layer = self._stock.pop() if self._stock else self._made()
            try:
                _furnish(layer, self._layout.state_dir, database, roots)
            except BaseException:
                _remove(layer)
                raise
            return replace(layer, flox=flox)
        except (NoClosure, ViewError, _Failed) as error:
            fault, detail = Fault.BROKEN, str(error)
        except OSError as error:
            fault, detail = fault_of(error), str(error)
        return Failure(fault, clean(detail), "", time.monotonic())

    def _made(self) -> Layer:
        """An empty layer, mounted. Raises _Failed, OSError."""
        if any(character in self._layers for character in ",:\\"):
            raise _Failed(f"no overlay can have a layer below {self._layers}: its path has one of , : \\")
        os.makedirs(self._layers, mode=0o711, exist_ok=True)
        if self._is_full():
            raise OSError(errno.ENOSPC, f"the file system of {self._layers} is almost full")
        layer = Layer(os.path.join(self._layers, os.urandom(8).hex()))
        os.makedirs(layer.mount_point, mode=0o711)
        try:
            image = os.path.join(layer.directory, "image")
            with open(image, "xb") as file:
                os.truncate(file.fileno(), self._size)
                os.fchmod(file.fileno(), 0o600)
            # No journal: nothing in it outlives the node's boot. No table is written that no file needs yet.
            _run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", image)
            # What the container deletes is given back to the node.
            _run("mount", "-t", "ext4", "-o", "loop,noinit_itable,nosuid,nodev,discard", image, layer.mount_point)
        except BaseException:
            _remove(layer)
            raise
        return layer

    def _is_full(self) -> bool:
        room = os.statvfs(self._layers)
        return room.f_bavail < self._min_free * room.f_blocks

    def _sweep(self) -> None:
        keep = {layer.directory for layer in (*self._catalogue.layers(), *self._stock)}
        for name in _names(self._layers):
            layer = Layer(os.path.join(self._layers, name))
            if layer.directory not in keep:
                _remove(layer)
        # What Nix knows of a path can change, and another version of this may want it otherwise.
        for name in _names(self._databases):
            os.unlink(os.path.join(self._databases, name))

    def _empty_stock(self) -> None:
        while self._stock:
            _remove(self._stock.pop())


def node_flox(executable: str, layout: Layout) -> Tool | None:
    """The node's own Flox, its closure laid out; None where it isn't installed, or not by Nix.

    Raises NoClosure, ViewError, OSError where it lies in the store and can't be had all the same.
    """
    from shutil import which  # It brings in every archive format, and most nodes never need any of this.

    found = which(executable)
    if found is None:
        return None
    file = os.path.realpath(found)
    for directory in (STORE_DIR, layout.store.directory):
        if file.startswith(f"{directory}/"):
            path = StorePath(file.removeprefix(f"{directory}/").partition("/")[0])
            members = closure(layout.store, layout.state_dir, path, listed=False)
            return Tool(path, lay_out(layout.view_dir, layout.store, path, members))
    return None


class _Failed(Exception):
    """A layer can't be made; the text says why."""


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _furnish(layer: Layer, nix_state_dir: str, database: str, roots: Iterable[StorePath]) -> None:
    """Lay out what the container finds at /nix, and where the overlay over its store writes."""
    for directory in (layer.nix, layer.upper, layer.work):
        os.mkdir(directory)
    os.rmdir(os.path.join(layer.mount_point, "lost+found"))
    for directory in ("store", *_NIX_DIRECTORIES):
        os.makedirs(os.path.join(layer.nix, directory))
    for number, root in enumerate(roots):
        os.symlink(str(root), os.path.join(layer.nix, f"var/nix/gcroots/nri-flox-{number}"))
    target = os.path.join(layer.nix, "var/nix/db")
    _copy(database, os.path.join(target, "db.sqlite"))
    _copy(os.path.join(nix_state_dir, "db/schema"), os.path.join(target, "schema"))
    # Whoever the container runs as may write, as its own files are nobody else's.
    for directory in (layer.nix, layer.upper):
        os.chmod(directory, 0o1777)  # noqa: S103
    for below, _, _ in os.walk(os.path.join(layer.nix, "var")):
        os.chmod(below, 0o777)  # noqa: S103


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "xb") as write:
        while os.sendfile(write.fileno(), read.fileno(), None, 1 << 24):
            pass
        os.fchmod(write.fileno(), 0o666)


def _remove(layer: Layer) -> None:
    """Unmount and delete. What still uses the layer keeps it until it ends."""
    from shutil import rmtree  # as above

    if os.path.ismount(layer.mount_point):
        # Lazily: who still uses it keeps it, and the loop device goes with its last user.
        _run("umount", "--lazy", layer.mount_point)
    rmtree(layer.directory, ignore_errors=True)


def _run(*command: str) -> None:
    """Raises _Failed."""
    import subprocess  # as above

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except FileNotFoundError:
        raise _Failed(f"{command[0]} is not installed on this node") from None
    except subprocess.TimeoutExpired:
        raise _Failed(f"{command[0]} did not end within {_TIMEOUT:.0f} s") from None
    if done.returncode:
        raise _Failed(f"{command[0]} failed: {done.stderr.strip()}")
