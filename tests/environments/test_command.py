"""Whatever a command does, the answer comes by the deadline, is bounded, and nothing of its group lives on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from nri_flox.environments.command import Commands, Ended, identity

ENV = {"PATH": os.environ["PATH"]}
KEPT = 64 * 1024


@pytest.fixture
def commands() -> Commands:
    return Commands()


def shell(
    commands: Commands, script: str, *, timeout: float = 10, env: Mapping[str, str] = ENV, user: str | None = None
) -> Ended:
    return run(commands, ["sh", "-c", script], timeout=timeout, env=env, user=user)


def run(
    commands: Commands,
    command: Sequence[str],
    *,
    timeout: float = 10,
    env: Mapping[str, str] = ENV,
    user: str | None = None,
    cwd: str = "/",
) -> Ended:
    return commands.run(command, env, cwd=cwd, user=user, timeout=timeout)


def gone(pid: int) -> bool:
    """Whether a process has ended, within two seconds; a zombie has."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def number(text: str) -> int:
    return int(text.split()[0])


def test_status_and_both_outputs_come_back(commands: Commands) -> None:
    assert shell(commands, "echo out; echo err >&2; exit 3") == Ended(3, "out\nerr\n")


def test_a_command_that_was_killed_has_its_signal_as_status(commands: Commands) -> None:
    assert shell(commands, "kill -9 $$").status == -signal.SIGKILL


def test_its_env_is_exactly_what_was_given(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVICE", "x")
    assert run(commands, ["/usr/bin/env"], env={"A": "b"}).output == "A=b\n"


def test_its_input_is_empty_and_it_has_no_terminal(commands: Commands) -> None:
    ended = shell(commands, "cat; tty; (exec < /dev/tty) 2>/dev/null || echo none")
    assert ended.output == "not a tty\nnone\n"


def test_it_inherits_no_descriptor(commands: Commands) -> None:
    leaky = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaky, True)
    try:
        assert shell(commands, "ls /proc/$$/fd").output.split() == ["0", "1", "2"]
    finally:
        os.close(leaky)


def test_its_files_are_its_own(commands: Commands) -> None:
    assert shell(commands, "umask").output == "0077\n"


def test_a_command_that_is_not_there_raises(commands: Commands) -> None:
    with pytest.raises(FileNotFoundError):
        run(commands, ["/nowhere/flox"])


def test_at_the_deadline_the_whole_group_goes(commands: Commands) -> None:
    began = time.monotonic()
    ended = shell(commands, "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; sleep 100' & wait; wait", timeout=0.5)
    assert ended.status is None
    assert time.monotonic() - began < 2
    assert gone(number(ended.output))


def test_a_quiet_child_that_holds_the_pipe_does_not_keep_the_answer(commands: Commands) -> None:
    began = time.monotonic()
    ended = shell(commands, "sleep 100 & echo $!; exit 1")
    assert ended.status == 1
    assert time.monotonic() - began < 2
    assert gone(number(ended.output))


def test_a_chatty_child_that_holds_the_pipe_does_not_keep_the_answer(commands: Commands) -> None:
    began = time.monotonic()
    ended = shell(commands, "yes & exit 1", timeout=5)
    assert ended.status == 1
    assert time.monotonic() - began < 2


def test_a_command_that_closed_its_outputs_is_waited_for(commands: Commands) -> None:
    assert shell(commands, "echo last; exec >&- 2>&-; sleep 0.3; exit 4") == Ended(4, "last\n")


@pytest.mark.parametrize("size", [KEPT - 1, KEPT, KEPT + 1, 10_000_000])
def test_of_huge_output_the_end_is_kept(commands: Commands, size: int) -> None:
    script = f"import sys; sys.stdout.write('x' * {size - 4} + 'end.')"
    ended = run(commands, [sys.executable, "-c", script])
    assert ended.status == 0
    assert len(ended.output) == min(size, KEPT)
    assert ended.output.endswith("xend.")


def test_output_that_never_ends_is_stopped_at_the_deadline(commands: Commands) -> None:
    began = time.monotonic()
    ended = shell(commands, "exec yes", timeout=0.5)
    assert ended.status is None
    assert len(ended.output) <= KEPT
    assert time.monotonic() - began < 2


def test_output_that_is_no_text_is_kept_as_far_as_it_is(commands: Commands) -> None:
    assert shell(commands, r"printf 'a\377b'").output == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("script", ["sleep 100", "yes"], ids=["quiet", "chatty"])
def test_stop_ends_what_runs_and_what_comes_after(commands: Commands, script: str) -> None:
    ended: list[Ended] = []
    workers = [threading.Thread(target=lambda: ended.append(shell(commands, script, timeout=60))) for _ in range(2)]
    for worker in workers:
        worker.start()
    time.sleep(0.2)
    commands.stop()
    for worker in workers:
        worker.join(5)
    assert [one.status for one in ended] == [None, None]
    began = time.monotonic()
    assert shell(commands, "sleep 100", timeout=60).status is None
    assert time.monotonic() - began < 2


def test_descriptors_are_closed(commands: Commands) -> None:
    shell(commands, "true")
    before = os.listdir("/proc/self/fd")
    for script in ("true", "yes & exit 1", "sleep 100"):
        shell(commands, script, timeout=0.2)
    assert os.listdir("/proc/self/fd") == before


def test_nothing_runs_on_when_watching_fails(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def fails(pid: int) -> int:
        started.append(pid)
        raise OSError("too many open files")

    monkeypatch.setattr(os, "pidfd_open", fails)
    with pytest.raises(OSError, match="too many"):
        shell(commands, "sleep 100")
    assert gone(started[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_it_runs_as_the_user_and_with_no_group_of_the_services(commands: Commands) -> None:
    uid, gid = identity("nobody")
    assert shell(commands, "id -u; id -g; id -G", user="nobody").output == f"{uid}\n{gid}\n{gid}\n"


def test_a_user_that_this_node_has_not_is_named(commands: Commands) -> None:
    with pytest.raises(OSError, match=r"flox\.user is 'no-such-user'"):
        shell(commands, "true", user="no-such-user")
