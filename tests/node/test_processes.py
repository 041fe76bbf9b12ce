"""The pod's own command runs as it would without the plugin: nothing stands between the runtime and it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from nri_flox.demo.node import SHELL, Container, Node, Pod
from tests.node.sample import publish


@pytest.fixture
def pod(node: Node) -> Pod:
    return node.pod(environment=publish(node).reference)


# For `sh -c`: says so once it runs, and stays.
READY = "echo ready; sleep 1000; true"


def command_line(container: Container) -> list[str]:
    """The words of the container's main process, as the kernel knows them, once `READY` runs."""
    wait_for(container, "ready")
    return Path(f"/proc/{container.pid}/cmdline").read_text().split("\0")[:-1]


def wait_for(container: Container, word: str) -> None:
    deadline = time.monotonic() + 10
    while word not in container.output().stdout:
        assert time.monotonic() < deadline, f"{word!r} is not in {container.output()}"
        time.sleep(0.005)


def test_the_first_process_is_the_command_itself(pod: Pod) -> None:
    container = pod.container(["sh", "-c", f"echo $$; {READY}"]).start()
    assert command_line(container) == ["sh", "-c", f"echo $$; {READY}"]
    assert container.output().stdout == "1\nready\n"


def test_in_a_shared_process_namespace_the_command_is_the_containers_first_process(node: Node) -> None:
    pod = node.pod(environment=publish(node).reference, shared_pid=True)
    container = pod.container(["sh", "-c", READY]).start()
    assert command_line(container) == ["sh", "-c", READY]


def test_arguments_arrive_byte_for_byte(pod: Pod) -> None:
    arguments = ["", "a b", "  ", "ünï 🦊", "'\"`$HOME\\", "-n", "--", "*", "line\nbreak\ttab", "x" * 5000]
    container = pod.container(["sh", "-c", READY, *arguments]).start()
    assert command_line(container) == ["sh", "-c", READY, *arguments]


def test_user_group_and_working_directory_are_the_pods(pod: Pod) -> None:
    said = pod.run(["sh", "-c", "id -u; id -g; pwd"], image=SHELL, run_as_user=1000, run_as_group=7, working_dir="/tmp")
    assert said.stdout == "1000\n7\n/tmp\n"


@pytest.mark.parametrize("image", [SHELL, "flox/empty:1.0.0"])
def test_a_read_only_root_stays_read_only(pod: Pod, image: str) -> None:
    said = pod.run(["sh", "-c", "touch /x"], image=image, read_only_root=True)
    assert "Read-only file system" in said.stderr


def test_output_and_exit_code_are_the_commands_own(pod: Pod) -> None:
    said = pod.run(["sh", "-c", "echo out; echo err >&2; exit 42"])
    assert (said.stdout, said.stderr, said.exit_code) == ("out\n", "err\n", 42)


def test_a_command_that_is_nowhere_fails_as_ever(pod: Pod) -> None:
    with pytest.raises(Exception, match='"nowhere": executable file not found'):
        pod.container(["nowhere"]).start()


def test_signals_reach_the_command_directly(pod: Pod) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    container = pod.container(["sh", "-c", script]).start()
    wait_for(container, "ready")
    os.kill(container.pid, signal.SIGUSR1)
    wait_for(container, "usr1")
    stopped = container.stop()
    assert (stopped.stdout, stopped.exit_code) == ("ready\nusr1\nterm\n", 5)
