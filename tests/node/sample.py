"""What the tests in here put on a node, and what they read from it: small environments, refusals, mounts.

Every environment has a name of its own, for a check of one that began some seconds ago serves pods that come later.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from nri_flox.demo import packages, render
from nri_flox.demo.cri import CreateFailed
from nri_flox.demo.node import Container, Node, Pod
from nri_flox.flox.reference import Reference
from nri_flox.flox.store import StorePath

_APPLETS = ("sh", "cat", "env", "id", "ls", "mkdir", "printf", "pwd", "readlink", "sleep", "test", "touch", "true")

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Published:
    """An environment that pods can name; `directory` is its store path on the node."""

    reference: str
    path: StorePath
    directory: Path

    @property
    def bin(self) -> str:
        return f"{self.path}/bin"


def unused_name() -> str:
    return f"acme/env-{next(_numbers)}"


@cache
def shell_tools() -> render.Package:
    """A shell and what a script needs, in one program without libraries."""
    links = {f"bin/{applet}": render.Link("busybox") for applet in _APPLETS}
    busybox = packages.busybox().read_bytes()
    return render.Package("busybox-1", {"bin/busybox": render.Executable(busybox), **links})


def publish(node: Node, reference: str | None = None, *, live: bool = True, **rendering: Any) -> Published:
    """An environment with `shell_tools`; `rendering` is what `render.render` takes."""
    named = Reference.parse(reference or unused_name())
    installed = [shell_tools(), *rendering.pop("packages", ())]
    path = render.render(str(node.store_dir), named.owner, named.name, packages=installed, **rendering)
    node.publish(str(named), path, live=live)
    return Published(str(named), path, node.store_dir / path.name)


def publish_tampered(node: Node, file: str, put: Callable[[Path], object]) -> Published:
    """An environment whose `file` is what `put` makes at the place that it is given."""
    honest = publish(node)
    path = StorePath.parse(f"/nix/store/{next(_numbers):032}-environment-run")
    directory = node.store_dir / path.name
    shutil.copytree(honest.directory, directory, symlinks=True)
    (directory / file).unlink()
    put(directory / file)
    node.publish(honest.reference, path)
    return Published(honest.reference, path, directory)


def refusal(pod: Pod, name: str = "main", **wanted: Any) -> str:
    """Why the plugin lets no container of that name be created: its text, without what runtimes say around it."""
    with pytest.raises(CreateFailed) as failed:
        pod.container(["true"], name, **wanted)
    return failed.value.text.partition(" desc = ")[2]


def created_at_last(pod: Pod, name: str = "main", **wanted: Any) -> Container:
    """A container, asked for as often as it takes while its environment is being pulled, as the kubelet does."""
    while True:
        try:
            return pod.container(["true"], name, **wanted)
        except CreateFailed as failed:
            if "is being pulled" not in failed.text:
                raise


def decisions(node: Node, pod: Pod, at_least: int = 1) -> list[Mapping[str, Any]]:
    """What the plugin logs of its decisions on the containers of `pod`, once there are so many."""
    deadline = time.monotonic() + 5
    while len(found := events(node, "container", pod=pod.sandbox.config.metadata.name)) < at_least:
        assert time.monotonic() < deadline, f"only {len(found)} decisions are logged"
        time.sleep(0.005)
    return found


def events(node: Node, event: str, **fields: object) -> list[Mapping[str, Any]]:
    """The plugin's log entries that have all of `fields`."""
    wanted = {"event": event, **fields}
    return [entry for entry in node.plugin.log() if wanted.items() <= entry.items()]


@contextmanager
def reconnecting(node: Node) -> Iterator[None]:
    """Ends when the plugin, which loses its connection meanwhile, is connected again."""
    before = len(events(node, "synchronized"))
    yield
    node.plugin.wait_connected(before + 1)


def host_mounts(node: Node) -> int:
    """How many mounts the node has; others of the machine, such as those of another node, are left out."""
    return sum(str(node.directory) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


def until(true: Callable[[], bool]) -> None:
    """Waits for it; fails when it has not come true after some seconds."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
