"""Pods that name no environment, and containers that are skipped, are as they would be without the plugin."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from nri_flox.demo.cri import Mount
from nri_flox.demo.node import SHELL, Node, Pod
from tests.node.sample import host_mounts, publish

BYSTANDER: Mapping[str, str] = {"team": "shop"}
SKIPPED = {"flox.dev/environment": "acme/tools", "flox.dev/skip-containers": "main"}
OTHER_CONTAINER = {"flox.dev/environment.other": "acme/tools"}


def oci_spec(node: Node, annotations: Mapping[str, str], uid: str) -> dict[str, Any]:
    """The spec of a container that uses much of what one can ask for, with fixed words in place of ids."""
    pod = node.pod(annotations=annotations, name="pod", uid=uid)
    container = pod.container(
        ["sh", "-c", "true"],
        image=SHELL,
        env={"GREETING": "hello", "PATH": "/opt/bin:/bin"},
        mounts=[Mount(node.directory, "/data", read_only=True)],
        working_dir="/tmp",
        run_as_user=1000,
        read_only_root=True,
    )
    text = json.dumps(container.spec)
    pod.remove()
    text = text.replace(container.id, "CONTAINER").replace(pod.sandbox.id, "SANDBOX")
    spec: dict[str, Any] = json.loads(re.sub(r"/proc/\d+/ns/", "/proc/PAUSE/ns/", text))
    return spec


@pytest.mark.parametrize(
    "annotations", [BYSTANDER, SKIPPED, OTHER_CONTAINER], ids=["bystander", "skipped", "other container named"]
)
def test_oci_spec_is_the_one_without_the_plugin(node: Node, annotations: Mapping[str, str]) -> None:
    uid = str(uuid.uuid4())
    with_plugin = oci_spec(node, annotations, uid)
    node.plugin.stop()
    try:
        without = oci_spec(node, annotations, uid)
    finally:
        node.start_plugin()
    assert with_plugin == without


def test_untouched_container_sees_no_nix(node: Node) -> None:
    publish(node)
    said = node.pod().run(["sh", "-c", "ls -d /nix; env"], image=SHELL)
    assert "No such file" in said.stderr
    assert "FLOX" not in said.stdout


def test_an_environment_adds_no_mount_to_the_node(node: Node) -> None:
    def growth(pod: Pod) -> int:
        before = host_mounts(node)
        for name in ("one", "two", "three"):
            pod.container(["sleep", "1000"], name, image=SHELL).start()
        return host_mounts(node) - before

    large = publish(node, extra_paths=100)
    before = host_mounts(node)
    pod = node.pod(environment=large.reference)
    pod_mounts = host_mounts(node) - before
    before = host_mounts(node)
    bystander = node.pod()
    assert pod_mounts == host_mounts(node) - before
    assert growth(pod) == growth(bystander)
