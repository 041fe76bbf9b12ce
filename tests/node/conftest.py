"""Private nodes for the tests in here: one of each containerd release for the whole session, and fresh ones.

    def test_something(node):
        pod = node.pod(environment="acme/tools")
        assert pod.run(["hello"]).stdout == "hello\n"

Everything in this directory runs once for each release; `@releases("2.3")` picks some. A test that fails shows the
end of the plugin's and containerd's logs.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from nri_flox.demo import packages
from nri_flox.demo.containerd import obstacle
from nri_flox.demo.node import Node

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

RELEASES = ("1.7", "2.1", "2.3")

_LOG_LINES = 40


class MakeNode(Protocol):
    """Gives a node of its own to a test that breaks or reconfigures it; it is up already."""

    def __call__(
        self,
        *,
        plugin: bool = True,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        request_timeout: float = 2.0,
    ) -> Node: ...


@pytest.fixture(scope="session", params=RELEASES)
def containerd_release(request: pytest.FixtureRequest) -> str:
    """The release to test with; skips where no private node can be had."""
    release: str = request.param
    if why_not := obstacle():
        pytest.skip(f"no private node: {why_not}")
    try:
        packages.containerd(release)
        packages.runc()
        packages.busybox()
    except packages.Unavailable as error:
        pytest.skip(f"no private node: {error}")
    return release


@pytest.fixture(scope="session")
def shared_node(containerd_release: str) -> Iterator[Node]:
    """The node behind `node`, up for the whole session."""
    with _directory() as directory, Node(Path(directory), containerd_release) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """A node with the plugin; the test's pods go with it."""
    yield shared_node
    shared_node.remove_pods()


@pytest.fixture
def make_node(containerd_release: str) -> Iterator[MakeNode]:
    """Makes nodes that live as long as the test."""
    with ExitStack() as stack:

        def make(
            *,
            plugin: bool = True,
            settings: Mapping[str, Mapping[str, object]] | None = None,
            request_timeout: float = 2.0,
        ) -> Node:
            directory = Path(stack.enter_context(_directory()))
            made = Node(
                directory, containerd_release, plugin=plugin, settings=settings, request_timeout=request_timeout
            )
            return stack.enter_context(made)

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Node):
                report.sections.append(("the plugin's log", _end(value.plugin.log_file)))
                report.sections.append(("containerd's log", _end(value.containerd.log_file)))
    return report


def _directory() -> tempfile.TemporaryDirectory[str]:
    # Not pytest's own: sockets lie in it, whose paths must be short, and it is kept for no one.
    return tempfile.TemporaryDirectory(prefix="nri-flox-")


def _end(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-_LOG_LINES:])
