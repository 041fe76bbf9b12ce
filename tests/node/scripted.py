"""Environments that only a shell can activate, for the node tests in here; the shell is none of their programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from nri_flox.demo import packages, render
from nri_flox.demo.cri import CreateFailed, Output
from nri_flox.demo.node import Container, Node, Pod
from nri_flox.flox.store import StorePath
from tests.node import sample
from tests.node.sample import Published


def bash(node: Node) -> StorePath:
    """A bash in the store that needs no library."""
    program = render.Executable(packages.bash().read_bytes())
    return render.add_path(str(node.store_dir), "bash-5", {"bin/bash": program})


def publish(node: Node, reference: str | None = None, **rendering: Any) -> Published:
    """An environment whose `activate` has a bash of its own; `rendering` is what `render.render` takes."""
    interpreter = bash(node)
    return sample.publish(node, reference, bash=f"{interpreter}/bin/bash", closure=[interpreter], **rendering)


def publish_hook(node: Node, hook: str = "export FROM_HOOK=yes", **rendering: Any) -> Published:
    """One with an on-activate hook, which says on stderr that it was run."""
    return publish(node, hook=f"echo the hook >&2\n{hook}\n", **rendering)


def refused(pod: Pod, command: Sequence[str], **wanted: Any) -> str:
    """Why a container with that command is not created."""
    with pytest.raises(CreateFailed) as failed:
        pod.container(command, **wanted)
    return failed.value.text


def rewrites_args(node: Node) -> bool:
    """Whether the node's runtime lets a plugin rewrite a container's command."""
    return "2.3" in node.cri.version().runtime_version


def variables(said: Output) -> dict[str, str]:
    """What `cat /proc/self/environ` has said."""
    assert said.exit_code == 0, said
    return dict(entry.split("=", 1) for entry in said.stdout.split("\0") if "=" in entry)


def wait_for(container: Container, word: str) -> None:
    """Until the container has written `word`."""
    deadline = time.monotonic() + 20
    while word not in (said := container.output()).stdout + said.stderr:
        assert time.monotonic() < deadline, f"{word!r} is not in {said}"
        time.sleep(0.01)
