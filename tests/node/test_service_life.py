"""Runtime and service come and go, each by itself; pods go on, and new ones get what they name."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from nri_flox.demo.node import SHELL, Node
from tests.node.conftest import MakeNode
from tests.node.sample import created_at_last, events, publish, reconnecting, refusal, until

PACKAGE_PARENT = Path(__file__).parents[2]


def service(node: Node) -> list[str]:
    """The command line of the node's service."""
    return [sys.executable, "-m", "nri_flox", "run", "--config", str(node.plugin.config_file)]


def assert_works(node: Node) -> None:
    environment = publish(node, vars={"GREETING": "hello"})
    pod = node.pod(environment=environment.reference)
    assert created_at_last(pod).env["GREETING"] == "hello"
    assert pod.run(["sh", "-c", "echo $GREETING"], "runs").stdout == "hello\n"


# The runtime.


def stop_and_start(node: Node) -> None:
    node.containerd.restart()


def crash(node: Node) -> None:
    node.containerd.kill()
    node.containerd.start()


@pytest.mark.parametrize("end", [stop_and_start, crash])
def test_the_plugin_returns_to_a_runtime_that_was_away(node: Node, end: Callable[[Node], None]) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    container = pod.container(["sleep", "1000"]).start()
    first_process, service_process = container.pid, node.plugin.pid
    with reconnecting(node):
        end(node)
    assert (container.pid, node.plugin.pid) == (first_process, service_process)
    assert container.exec(["sh", "-c", "echo $FLOX_ENV"]).stdout == f"{environment.path}\n"
    assert pod.run(["true"], "later").exit_code == 0, "a pod from before gets more containers"
    assert events(node, "disconnected")[-1]["reason"]
    assert_works(node)


# The service.


def test_a_killed_service_is_started_anew_and_knows_the_pods_that_run(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    container = pod.container(["sleep", "1000"]).start()
    (node.view_dir / ".building-0-half-done").mkdir()
    node.plugin.kill()
    assert container.exec(["sh", "-c", "echo $FLOX_ENV"]).stdout == f"{environment.path}\n"
    node.start_plugin()
    assert created_at_last(pod, "later").finish().exit_code == 0
    until(lambda: not list(node.view_dir.glob(".building-*")))
    assert_works(node)


def test_a_stopped_service_ends_with_status_0_and_leaves_containers_alone(node: Node) -> None:
    container = node.pod(environment=publish(node).reference).container(["sleep", "1000"]).start()
    assert node.plugin.stop() == 0
    assert container.exec(["true"]).exit_code == 0
    node.start_plugin()


def test_a_second_service_on_the_same_state_says_so_and_ends(node: Node) -> None:
    second = subprocess.run(service(node), cwd=PACKAGE_PARENT, capture_output=True, text=True, timeout=10)
    assert second.returncode == 1
    assert f"{node.state_dir} is in use by another nri-flox service" in second.stderr
    assert "Traceback" not in second.stderr
    assert_works(node)


def test_a_service_whose_log_nobody_reads_still_answers(node: Node) -> None:
    node.plugin.stop()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    # Full from the start: through a description of our own, so that the service's end stays one that blocks.
    filling = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    os.write(filling, b"x" * 4096)
    with subprocess.Popen(service(node), cwd=PACKAGE_PARENT, stderr=writer) as process:
        try:
            environment = publish(node)
            pod = node.pod(environment=environment.reference)
            # Nothing else tells when it is connected.
            names = (f"c-{number}" for number in count())
            while "flox.dev/store-path" not in created_at_last(pod, next(names)).annotations:
                assert process.poll() is None
            for _ in range(5):
                assert created_at_last(pod, next(names)).finish().exit_code == 0
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            for descriptor in (reader, writer, filling):
                os.close(descriptor)
            node.start_plugin()


# Its config.


@contextmanager
def config_file(node: Node) -> Iterator[Path]:
    """The service's config, as it was before at the end."""
    before = node.plugin.config_file.read_text()
    yield node.plugin.config_file
    node.plugin.config_file.write_text(before)
    reload(node, "reloaded")


def reload(node: Node, outcome: str) -> None:
    already = len(events(node, outcome))
    node.plugin.send(signal.SIGHUP)
    node.plugin.wait_for(outcome, already + 1)


def test_sighup_reloads_the_config_whole(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    connection = len(events(node, "synchronized"))
    with config_file(node) as config:
        config.write_text(config.read_text() + '[runtime]\nskip_containers = ["side"]\n[policy]\ndefault = "deny"\n')
        reload(node, "reloaded")
        assert "FLOX_ENV" not in pod.container(["true"], "side", image=SHELL).env
        assert "the policy of this node does not allow" in refusal(pod)
    assert "FLOX_ENV" in pod.container(["true"], "side", attempt=1, image=SHELL).env
    assert len(events(node, "synchronized")) == connection, "the connection stays"


def test_a_config_with_a_fault_changes_nothing(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    with config_file(node) as config:
        config.write_text(config.read_text() + '[runtime]\nskip_containers = ["side"]\nhandlrs = ["x"]\n')
        reload(node, "reload_failed")
        error = events(node, "reload_failed")[-1]["error"]
        assert "runtime.handlrs" in error
        assert str(config) in error
        assert pod.run(["true"], "side").exit_code == 0


def test_a_source_that_moves_is_found_where_the_reloaded_config_says(node: Node, tmp_path: Path) -> None:
    environment = publish(node)
    kept = node.pod(environment=environment.reference)
    assert kept.run(["true"]).exit_code == 0
    with config_file(node) as config:
        config.write_text(config.read_text().replace(str(node.environments_dir), str(tmp_path)))
        reload(node, "reloaded")
        assert str(tmp_path) in refusal(node.pod(environment=environment.reference))
        assert kept.run(["true"], "later").exit_code == 0, "a pod keeps the environment that its containers run in"
    assert_works(node)


# A runtime that launches its plugins itself.


def test_a_launched_plugin_takes_its_config_from_the_runtime(make_node: MakeNode) -> None:
    node = make_node(plugin=False)
    (node.directory / "elsewhere").mkdir()
    config = node.plugin.config_file
    (node.containerd.nri_plugin_configs / "50-flox.conf").write_text(
        f'[environments]\ndirectory = "{node.environments_dir}"\n[runtime]\nskip_containers = ["by-drop-in"]\n'
    )
    config.write_text(config.read_text().replace(str(node.environments_dir), str(node.directory / "elsewhere")))
    launched = node.containerd.nri_plugins / "50-flox"
    # It gets neither PATH nor arguments.
    launched.write_text(
        f"#!/bin/sh\nPYTHONPATH={PACKAGE_PARENT} exec {' '.join(service(node))} 2>>{node.plugin.log_file}\n"
    )
    launched.chmod(0o755)
    node.containerd.restart()
    pod = node.pod(environment=publish(node).reference)
    assert created_at_last(pod).finish().exit_code == 0
    assert "FLOX_ENV" not in pod.container(["true"], "by-drop-in", image=SHELL).env
    node.containerd.restart()
    assert created_at_last(pod, "after-a-restart").finish().exit_code == 0
