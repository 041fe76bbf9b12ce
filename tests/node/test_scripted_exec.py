"""What exec runs in a container whose environment a shell has activated."""

from __future__ import annotations

import os
import signal
import time

import pytest

from nri_flox.demo.node import SHELL, Node
from tests.node.scripted import bash, publish, publish_hook, variables, wait_for

SHOW = ["cat", "/proc/self/environ"]
ENDLESS = ["sleep", "1000"]


def test_a_bare_name_gets_the_exports_of_the_hook_which_is_not_run_again(node: Node) -> None:
    pod = node.pod(environment=publish_hook(node).reference)
    for image, name in ((SHELL, "shell"), ("flox/empty:1.0.0", "empty")):
        container = pod.container(ENDLESS, name, image=image).start()
        for command in (
            SHOW,
            ["sh", "-c", "cat /proc/self/environ"],
            ["env", *SHOW],
            ["bash", "-c", "exec cat /proc/$$/environ"],
        ):
            said = container.exec(command)
            assert said.stderr == "", command
            env = variables(said)
            assert env["FROM_HOOK"] == "yes", command
            assert "nri-flox/" not in env["PATH"], command
        assert container.output().stderr == "the hook\n"


def test_the_main_commands_name_is_attached_too(node: Node) -> None:
    pod = node.pod(environment=publish_hook(node).reference)
    container = pod.container(["tail", "-f", "/dev/null"], image=SHELL).start()
    said = container.exec(["tail", "-c", "4096", "/proc/self/environ"])
    assert variables(said)["FROM_HOOK"] == "yes"


def test_a_path_gets_the_static_part(node: Node) -> None:
    environment = publish_hook(node, vars={"LEVEL": "debug", "DATA": "$ROOT/data"})
    container = node.pod(environment=environment.reference).container(ENDLESS, env={"ROOT": "/srv"}).start()
    env = variables(container.exec([f"{environment.bin}/cat", "/proc/self/environ"]))
    assert (env["LEVEL"], env["DATA"]) == ("debug", "/srv/data")
    assert env["FLOX_ENV"] == str(environment.path)
    assert f"{environment.bin}:" in env["PATH"]
    assert "FROM_HOOK" not in env
    # What it runs by name is activated, and keeps what it was given.
    inner = variables(container.exec([f"{bash(node)}/bin/bash", "-c", "OTHER=mine cat /proc/self/environ"]))
    assert (inner["FROM_HOOK"], inner["OTHER"]) == ("yes", "mine")


def test_an_exec_during_the_hook_waits_for_it(node: Node) -> None:
    environment = publish_hook(node, "sleep 1; export FROM_HOOK=yes")
    container = node.pod(environment=environment.reference).container(ENDLESS).start()
    assert variables(container.exec(SHOW))["FROM_HOOK"] == "yes"


def test_an_exec_gives_up_on_a_hook_that_never_ends(node: Node) -> None:
    environment = publish_hook(node, "sleep 1000")
    container = node.pod(environment=environment.reference).container(ENDLESS).start()
    wait_for(container, "the hook")
    began = time.monotonic()
    said = container.exec(["cat", "/proc/self/environ"], timeout=60)
    assert 25 < time.monotonic() - began < 45
    assert (said.stdout, said.exit_code) == ("", 124)
    assert "still being activated after 30 s" in said.stderr


def test_in_a_shared_process_namespace_the_first_process_is_the_main_one(node: Node) -> None:
    pod = node.pod(environment=publish_hook(node).reference, shared_pid=True)
    container = pod.container(["sh", "-c", "echo $FROM_HOOK; trap 'exit 5' TERM; while :; do sleep 0.01; done"]).start()
    wait_for(container, "yes")
    said = container.exec(["sh", "-c", "echo $FROM_HOOK"])
    assert (said.stdout, said.stderr) == ("yes\n", "")
    os.kill(container.pid, signal.SIGTERM)
    ended = container.wait()
    assert (ended.stderr, ended.exit_code) == ("the hook\n", 5)


def test_signals_reach_the_command_directly(node: Node) -> None:
    pod = node.pod(environment=publish_hook(node).reference)
    container = pod.container(["sh", "-c", "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.01; done"])
    wait_for(container.start(), "ready")
    assert (container.stop().stdout, container.wait().exit_code) == ("ready\nterm\n", 5)


@pytest.mark.parametrize("hook", [None, "echo the hook >&2; export FROM_HOOK=yes"], ids=["static", "scripted"])
def test_exec_can_be_left_outside(node: Node, hook: str | None) -> None:
    environment = publish(node, vars={"LEVEL": "debug"}, **({} if hook is None else {"hook": hook}))
    pod = node.pod(environment=environment.reference, annotations={"flox.dev/skip-containers-exec": "main"})
    container = pod.container(
        ["sh", "-c", "echo $FLOX_ENV $LEVEL; cat /proc/self/environ | cat; sleep 1000"],
        image=SHELL,
        env={"PATH": "/usr/bin:/bin", "LEVEL": "own"},
    ).start()
    wait_for(container, f"{environment.path} debug")
    for command in (["env"], ["sh", "-c", "env"], ["/bin/env"]):
        env = dict(line.split("=", 1) for line in container.exec(command).stdout.splitlines())
        assert env["LEVEL"] == "own"
        assert "FLOX_ENV" not in env
        assert env["PATH"].removeprefix("/nix/nri-flox/main:") == "/usr/bin:/bin"


def test_a_job_of_gitlab(node: Node) -> None:
    """Its pod has an init container, a helper, and a build container whose shell runs the job; exec is for others."""
    environment = publish_hook(node)
    annotations = {
        "flox.dev/skip-containers": "init-permissions,helper",
        "flox.dev/skip-containers-exec": "build",
    }
    pod = node.pod(environment=environment.reference, handler="flox", annotations=annotations)
    assert "FLOX_ENV" not in pod.run(["sh", "-c", "env"], "init-permissions", image=SHELL).stdout
    helper = pod.container(ENDLESS, "helper", image=SHELL).start()
    detect = "if [ -x /usr/local/bin/bash ]; then exec /usr/local/bin/bash; fi; echo $FROM_HOOK $FLOX_ENV; sleep 1000"
    build = pod.container(["sh", "-c", detect], "build", image=SHELL).start()
    wait_for(build, f"yes {environment.path}")
    for container in (helper, build):
        assert "FLOX_ENV" not in container.exec(["sh", "-c", "env"]).stdout
