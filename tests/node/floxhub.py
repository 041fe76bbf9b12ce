"""A node whose environments come through the stand-in of the Flox CLI into a real Nix store, for the tests in here."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from nri_flox.demo import render
from nri_flox.demo.cri import CreateFailed, Mount
from nri_flox.demo.node import Container, Node, Pod
from tests.node.sample import shell_tools
from tests.standins.floxhub import FLOX, FloxHub, Invocation
from tests.standins.nixstore import NixStore

FILE = "floxhub-token"
MOUNT_PATH = "/var/run/secrets/flox.dev"

_numbers = count(1)


class HubNode:
    """A private node, FloxHub, and the store between them."""

    def __init__(self, node: Node, hub: FloxHub, nix: NixStore) -> None:
        self.node = node
        self.hub = hub
        self.nix = nix

    def publish(self, reference: str | None = None, *tokens: str, **options: Any) -> str:
        """Publish an environment with a shell, unlike any other, as the next generation; it is on FloxHub alone. Gives
        its name. With `tokens` it is private."""
        number = next(_numbers)
        named = reference or f"acme/tools-{number}"
        owner, _, name = named.partition("/")
        path = render.render(
            str(self.nix.store_dir), owner, name, packages=[shell_tools()], vars={"NUMBER": str(number)}
        )
        self.nix.add_environment(str(path))
        self.hub.publish(named, run=str(path), private_to=tokens or None, **options)
        return named

    def pod(
        self,
        environment: str,
        *,
        token: str | bytes | None = None,
        other: str | None = None,
        projected: bool = False,
        **more: Any,
    ) -> Pod:
        """A pod that names `environment`, whose volume `secret-volume` holds `token`, and a second one `other`."""
        uid = str(uuid.uuid4())
        if token is not None:
            self.node.secret(uid, {FILE: token}, projected=projected)
        if other is not None:
            self.node.secret(uid, {FILE: other}, volume="other-volume")
        return self.node.pod(environment=environment, **{"uid": uid, **more})

    def volume(self, pod: Pod, kind: str = "secret") -> Path:
        return self.node.kubelet_root / "pods" / pod.uid / "volumes" / f"kubernetes.io~{kind}" / "secret-volume"

    def pulls(self, reference: str) -> list[Invocation]:
        return self.hub.invocations(reference)


@contextmanager
def hub_node(release: str, settings: Mapping[str, Mapping[str, object]] | None = None) -> Iterator[HubNode]:
    """One that is up, and whose CLI was never misused when it goes. Checks are soon too old for later pods."""
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="nri-flox-") as directory, tempfile.TemporaryDirectory() as beside:
        hub_dir = Path(beside) / "hub"
        base = {
            "environments": {"source": "floxhub", "fresh_for": "300ms", "wait_share": 1.0, "max_parallel_pulls": 4},
            "flox": {"executable": FLOX, "environment": {"FLOX_STANDIN_HUB": str(hub_dir)}},
        }
        more = settings or {}
        node = Node(
            Path(directory),
            release,
            settings={name: {**base.get(name, {}), **more.get(name, {})} for name in {**base, **more}},
        )
        nix = NixStore(Path(directory))
        hub = FloxHub(hub_dir, nix)
        with node:
            yield HubNode(node, hub, nix)
        assert hub.alarms() == []


def mount(volume: Path) -> list[Mount]:
    """The whole volume, where tokens are looked for."""
    return [Mount(volume, MOUNT_PATH, read_only=True)]


def tries(pod: Pod, command: list[str], name: str = "main", **wanted: Any) -> Iterator[Container | str]:
    """What comes of asking for a container again and again, as the kubelet does: the plugin's text, or a container."""
    while True:
        try:
            yield pod.container(command, name, **wanted)
        except CreateFailed as failed:
            yield failed.text.partition(" desc = ")[2]
        time.sleep(0.02)


def outcome(pod: Pod, command: list[str], name: str = "main", **wanted: Any) -> Container | str:
    """What comes of it once the environment is not being pulled any more."""
    for tried in tries(pod, command, name, **wanted):
        if not isinstance(tried, str) or "is being pulled" not in tried:
            return tried
    raise AssertionError


def printed(pod: Pod, script: str = "echo $NUMBER", name: str = "main", **wanted: Any) -> str:
    """What a script prints in the pod's environment, once that is here."""
    container = outcome(pod, ["sh", "-c", script], name, **wanted)
    assert isinstance(container, Container), container
    return container.finish().stdout.strip()


def refused(pod: Pod, name: str = "main", **wanted: Any) -> str:
    """The text with which a container is refused in the end."""
    text = outcome(pod, ["true"], name, **wanted)
    assert isinstance(text, str), "the container was created"
    return text
