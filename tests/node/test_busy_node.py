"""Nodes with many pods, and with containers of large environments: what a plugin is told when it connects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import rig
from nri_flox.demo.node import SHELL, Node
from nri_flox.demo.plugin import Plugin
from nri_flox.demo.render import render
from tests.node.sample import publish

REQUEST_TIMEOUT = 2.0  # seconds, the runtime's default for the whole of Synchronize


# Up to containerd 1.7.25 all of them come back in one message of at most 4 MiB, or the plugin never connects.
@pytest.mark.parametrize("containerd_release", ["1.7"], indirect=True, scope="session")
def test_two_hundred_containers_of_three_hundred_paths_fit_into_one_message(node: Node) -> None:
    environment = publish(node, "acme/wide:1", extra_paths=300, vars={f"V_{n}": "x" * 50 for n in range(40)})
    pod = node.pod(environment=environment.reference)
    for number in range(200):
        pod.container(["true"], f"c-{number}")
    node.plugin.stop()
    node.start_plugin()
    assert pod.container(["true"], "one-more").env["V_39"] == "x" * 50


# 1.7 sends one message only, and no plugin gets a larger one.
@pytest.mark.parametrize("containerd_release", ["2.1", "2.3"], indirect=True, scope="session")
def test_a_node_that_takes_several_messages_is_taken_in(node: Node) -> None:
    # More than one pod: the runtime takes a share of their number for a message, rounds it down, and goes on for ever
    # with no pod a message.
    for pod in [node.pod() for _ in range(4)]:
        for number in range(8):
            pod.container(["true"], f"c-{number}", image=SHELL, env={"LONG": "x" * 200_000})
    node.plugin.stop()
    node.start_plugin()
    assert node.pod(environment=publish(node).reference).run(["true"]).exit_code == 0


@pytest.mark.timeout(600)  # the first build downloads and compiles
def test_five_hundred_pods_are_taken_in_within_the_request_timeout(tmp_path: Path) -> None:
    """The runtime is the Go package that containerd embeds, with 500 pods and 2000 containers: a real containerd would
    need a process for each pod, and minutes."""
    path = render(str(tmp_path / "store"), "acme", "tools")
    links = tmp_path / "environments/acme/tools"
    links.mkdir(parents=True)
    (links / "live").symlink_to(str(path))
    plugin = Plugin(
        tmp_path / "plugin",
        {
            "nri": {"socket_path": tmp_path / "nri.sock"},
            "environments": {
                "source": "directory",
                "directory": tmp_path / "environments",
                "state_dir": tmp_path / "state",
            },
            "nix": {"store_dir": tmp_path / "store", "state_dir": tmp_path / "var", "view_dir": tmp_path / "views"},
            "token": {"kubelet_root": tmp_path / "kubelet"},
        },
    )
    rig.build(tmp_path / "bin")
    with rig.runtime(tmp_path / "bin/runtime", tmp_path / "nri.sock", "acme/tools", str(path)) as runtime:
        service = [sys.executable, "-m", "nri_flox", "run", "--config", str(plugin.config_file)]
        connected = runtime.connect(service, plugin.log_file)
        assert connected.synchronized < REQUEST_TIMEOUT
        runtime.await_answer()
        runtime.disconnect()
