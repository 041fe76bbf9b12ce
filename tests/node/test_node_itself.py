"""The private node without the plugin: what the other tests in here stand on."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nri_flox.demo import kubelet
from nri_flox.demo.cri import CreateFailed, Mount, StartFailed
from nri_flox.demo.node import EMPTY, SHELL, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.node.conftest import MakeNode


@pytest.fixture(scope="module")
def running(containerd_release: str) -> Iterator[Node]:
    with (
        tempfile.TemporaryDirectory(prefix="nri-flox-") as directory,
        Node(Path(directory), containerd_release, plugin=False) as node,
    ):
        yield node


@pytest.fixture
def bare(running: Node) -> Iterator[Node]:
    yield running
    running.remove_pods()


def test_it_runs_the_release_that_was_asked_for(bare: Node, containerd_release: str) -> None:
    assert bare.cri.version().runtime_version.lstrip("v").startswith(f"{containerd_release}.")


def test_output_and_exit_code_are_the_commands_own(bare: Node) -> None:
    ended = bare.pod().run(["sh", "-c", "echo out; echo err >&2; exit 3"], image=SHELL)
    assert (ended.stdout, ended.stderr, ended.exit_code) == ("out\n", "err\n", 3)


def test_a_long_line_of_output_comes_back_whole(bare: Node) -> None:
    assert len(bare.pod().run(["sh", "-c", "printf '%050000d\\n' 7"], image=SHELL).stdout) == 50_001


def test_a_container_has_what_its_pod_asked_for(bare: Node) -> None:
    container = bare.pod().container(
        ["sh", "-c", 'id -u; id -g; pwd; echo "$GREETING $IMAGE"; touch /x'],
        image=SHELL,
        run_as_user=1000,
        run_as_group=1000,
        working_dir="/tmp",
        env={"GREETING": "hello"},
        read_only_root=True,
    )
    ended = container.finish()
    assert ended.stdout == "1000\n1000\n/tmp\nhello busybox\n"
    assert "Read-only file system" in ended.stderr
    assert container.env["GREETING"] == "hello"


def test_exec_runs_in_the_container(bare: Node) -> None:
    container = bare.pod().container(["sleep", "1000"], image=SHELL, env={"WHERE": "inside"}).start()
    said = container.exec(["sh", "-c", "echo $WHERE; echo oh >&2; exit 4"])
    assert (said.stdout, said.stderr, said.exit_code) == ("inside\n", "oh\n", 4)


def test_the_stop_signal_reaches_the_main_process(bare: Node) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    container = bare.pod().container(["sh", "-c", script], image=SHELL).start()
    while "ready" not in container.output().stdout:
        pass
    ended = container.stop()
    assert (ended.stdout, ended.exit_code) == ("ready\nbye\n", 5)


def test_an_empty_image_has_nothing_to_run(bare: Node) -> None:
    container = bare.pod().container(["echoip"], image=EMPTY)
    with pytest.raises(StartFailed, match='"echoip": executable file not found'):
        container.start()


def test_images_are_known_by_their_digest_too(bare: Node) -> None:
    by_digest = next(name for name in bare.cri.images() if name.startswith("docker.io/library/busybox@sha256:"))
    assert bare.pod().run(["echo", "here"], image=by_digest).stdout == "here\n"


def test_an_image_that_is_not_there_fails_the_creation(bare: Node) -> None:
    with pytest.raises(CreateFailed, match="not found"):
        bare.pod().container(["x"], image="docker.io/library/nowhere:1")


def test_pods_of_the_flox_handler_run_too(bare: Node) -> None:
    assert bare.pod(handler="flox").run(["echo", "flox"], image=SHELL).stdout == "flox\n"


def test_a_shared_process_namespace_has_the_pause_as_its_first_process(bare: Node) -> None:
    ended = bare.pod(shared_pid=True).run(["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"], image=SHELL)
    assert ended.stdout.startswith("/bin/sh -c trap")


def test_a_secret_volume_looks_as_the_kubelet_makes_it_and_can_change(bare: Node) -> None:
    pod = bare.pod()
    volume = bare.secret(pod.uid, {"floxhub-token": "first"})
    mount = Mount(volume, "/secret", read_only=True)
    container = pod.container(["sleep", "1000"], image=SHELL, mounts=[mount]).start()
    assert volume == bare.kubelet_root / f"pods/{pod.uid}/volumes/kubernetes.io~secret/secret-volume"
    assert container.exec(["readlink", "/secret/floxhub-token"]).stdout == "..data/floxhub-token\n"
    assert container.exec(["cat", "/secret/floxhub-token"]).stdout == "first"
    kubelet.secret_volume(bare.kubelet_root, pod.uid, "secret-volume", {"floxhub-token": "second"})
    assert container.exec(["cat", "/secret/floxhub-token"]).stdout == "second"
    assert len([entry for entry in volume.iterdir() if not entry.is_symlink()]) == 1, "the old secret is still there"


def test_a_container_that_is_tried_again_has_a_log_of_its_own(bare: Node) -> None:
    pod = bare.pod()
    assert pod.run(["echo", "one"], image=SHELL).stdout == "one\n"
    assert pod.run(["echo", "two"], image=SHELL, attempt=1).stdout == "two\n"


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_containers_outlive_containerd(bare: Node, how: str) -> None:
    container = bare.pod().container(["sleep", "1000"], image=SHELL).start()
    before = container.pid
    if how == "kill":
        bare.containerd.kill()
        bare.containerd.start()
    else:
        bare.containerd.restart()
    assert container.pid == before
    assert container.exec(["echo", "alive"]).stdout == "alive\n"


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_nothing_is_left_behind(containerd_release: str, killed: bool) -> None:
    sockets = _shim_sockets()
    with tempfile.TemporaryDirectory(prefix="nri-flox-") as directory:
        with Node(Path(directory), containerd_release, plugin=False) as node:
            container = node.pod().container(["sleep", "1000"], image=SHELL).start()
            pids = [node.containerd.pid, container.pid]
            assert _traces(directory, node.containerd.cgroup_parent)
            if killed:
                node.containerd.kill()
        assert _traces(directory, node.containerd.cgroup_parent) == []
        assert [pid for pid in pids if _runs(pid)] == []
    assert _shim_sockets() <= sockets


def _traces(directory: str, cgroup: str) -> list[str]:
    """Processes with the directory in their arguments, mounts below it, and cgroups of its pods."""
    processes = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/self/mountinfo").read_text()
    found = [line for line in (processes + mounts).splitlines() if re.search(rf"\s{re.escape(directory)}/", line)]
    return found + [place for place, _, _ in os.walk("/sys/fs/cgroup") if place.endswith(cgroup)]


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that ended and waits for its parent to hear of it doesn't run."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _shim_sockets() -> set[str]:
    sockets = Path("/run/containerd/s")
    return set(os.listdir(sockets)) if sockets.is_dir() else set()


def test_the_plugin_is_connected_and_can_run_with_other_settings(make_node: MakeNode) -> None:
    node = make_node(settings={"nri": {"plugin_index": "60"}})
    assert 'plugin_index = "60"' in node.plugin.config_file.read_text()
    with node.reconfigured({"environments": {"wait_budget": "300ms"}}):
        assert 'plugin_index = "60"' in node.plugin.config_file.read_text()
        assert node.plugin.wait_for("configured")["wait_budget"] == 0.3
    assert node.plugin.wait_for("configured")["wait_budget"] > 0.9
    assert node.plugin.stop() == 0
