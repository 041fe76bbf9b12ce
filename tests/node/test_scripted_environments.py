"""Environments that only a shell can activate: hooks, variables that need one, dev mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nri_flox.demo import render
from nri_flox.demo.cri import Mount
from nri_flox.demo.node import EMPTY, SHELL, Node
from tests.node.sample import publish_tampered, refusal, shell_tools, unused_name
from tests.node.scripted import bash, publish, publish_hook, refused, rewrites_args, variables

SHOW = ["cat", "/proc/self/environ"]


def test_a_hook_is_run_once_before_the_command(node: Node) -> None:
    environment = publish_hook(node, vars={"LEVEL": "debug"})
    said = node.pod(environment=environment.reference).run(["sh", "-c", "echo $$ $FROM_HOOK $LEVEL; exit 42"])
    assert (said.stdout, said.stderr, said.exit_code) == ("1 yes debug\n", "the hook\n", 42)


def test_the_command_finds_what_activate_itself_would_leave(node: Node) -> None:
    environment = publish_hook(node)
    pod = node.pod(environment=environment.reference)
    env = variables(pod.run(SHOW, image=SHELL, working_dir="/tmp", env={"PATH": "/opt/x:/bin", "XDG_DATA_DIRS": "/d"}))
    assert env["PATH"] == f"{environment.bin}:/opt/x:/bin"
    assert env["FLOX_ENV"] == env["FLOX_ENV_DIRS"] == str(environment.path)
    assert env["FLOX_ENV_PROJECT"] == "/tmp"
    assert env["FLOX_ENV_CACHE"] == "/nix/nri-flox/cache"
    assert env["FLOX_ENV_DESCRIPTION"] == environment.reference
    assert env["XDG_DATA_DIRS"] == f"{environment.path}/share:/d"
    assert not [name for name in env if name.startswith("_nf")]


NASTY = {
    "QUOTES": 'it\'s \\"quoted\\"',
    "LINES": "one\ntwo\n",
    "COMMAND": "$(printf hello)",
    "TICKS": "`printf hello`",
    "BACKSLASH": "a\\\\b\\n",
    "UNICODE": "ünï 🦊",
}


def test_values_that_need_a_shell_are_what_bash_makes_of_them(node: Node) -> None:
    environment = publish(node, vars=NASTY)
    env = variables(node.pod(environment=environment.reference).run(SHOW))
    assert {name: env[name] for name in NASTY} == {
        "QUOTES": 'it\'s "quoted"',
        "LINES": "one\ntwo\n",
        "COMMAND": "hello",
        "TICKS": "hello",
        "BACKSLASH": "a\\b\\n",
        "UNICODE": "ünï 🦊",
    }


def test_a_variable_that_only_the_process_knows(node: Node) -> None:
    environment = publish(node, vars={"DATA": "$HOME/data"})
    pod = node.pod(environment=environment.reference)
    assert variables(pod.run(SHOW, "without", image=SHELL))["DATA"] == "/root/data"
    static = pod.container(SHOW, "with", env={"HOME": "/h"})
    assert static.env["DATA"] == "/h/data"
    assert not [mount for mount in static.spec["mounts"] if mount["destination"].startswith("/nix/nri-flox/s")]


@pytest.mark.parametrize("hook", ["echo broken >&2; exit 7", "set -e; echo broken >&2; (exit 7); echo never >&2"])
def test_a_hook_that_fails_keeps_the_command_from_running(node: Node, hook: str) -> None:
    environment = publish_hook(node, hook)
    said = node.pod(environment=environment.reference).run(["sh", "-c", "echo ran"])
    assert (said.stdout, said.stderr, said.exit_code) == ("", "the hook\nbroken\n", 7)


def test_a_command_that_is_nowhere(node: Node) -> None:
    said = node.pod(environment=publish_hook(node).reference).run(["nowhere"])
    assert said.exit_code == 127
    assert "nowhere: not found" in said.stderr


def test_an_activate_that_is_not_executable_is_named_in_the_pods_log(node: Node) -> None:
    environment = publish_hook(node)
    target = (environment.directory / "activate").readlink()
    (node.store_dir / Path(*target.parts[3:])).chmod(0o444)
    try:
        said = node.pod(environment=environment.reference).run(["sh", "-c", "echo ran"])
    finally:
        (node.store_dir / Path(*target.parts[3:])).chmod(0o555)
    assert (said.stdout, said.exit_code) == ("", 126)
    assert said.stderr == f"flox: {environment.path}/activate is missing or not executable\n"


def test_an_activate_that_is_missing_is_refused(node: Node) -> None:
    environment = publish_tampered(node, "activate", Path.exists)
    pod = node.pod(environment=environment.reference, annotations={"flox.dev/skip-containers-exec": "main"})
    text = refusal(pod)
    assert "activate script is missing" in text
    assert "flox.dev/skip-containers-exec" in text


def test_an_environment_of_an_older_flox_is_refused_with_what_to_do(node: Node) -> None:
    text = refusal(node.pod(environment=publish_hook(node, flox="1.8").reference))
    assert "it has an on-activate hook" in text
    assert "Flox 1.8 or older" in text


@pytest.mark.parametrize("flox", ["1.9", "1.12"])
def test_environments_of_older_releases_are_activated_by_their_own_options(node: Node, flox: str) -> None:
    environment = publish_hook(node, flox=flox)
    env = variables(node.pod(environment=environment.reference).run(SHOW, env={"PATH": "/bin"}))
    assert env["FROM_HOOK"] == "yes"
    assert env["FLOX_ENV_DESCRIPTION"] == environment.reference
    assert env["PATH"] == f"{environment.bin}:{environment.path}/sbin:/bin"


def test_a_command_may_have_any_name_that_a_file_may_have(node: Node) -> None:
    name = "my tool: 100% ünï"
    program = render.Executable(f'#!{bash(node)}/bin/bash\necho "${{0##*/}}" "$@" $FROM_HOOK\n')
    environment = publish_hook(node, packages=[render.Package("odd", {f"bin/{name}": program})])
    said = node.pod(environment=environment.reference).run([name, "a  b"])
    assert (said.stdout, said.stderr) == (f"{name} a  b yes\n", "the hook\n")


@pytest.mark.parametrize("script", ["bin/x", "./run", "/srv/run"])
def test_a_command_with_a_path(node: Node, script: str, tmp_path: Path) -> None:
    program = tmp_path / script.removeprefix("/srv/")
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\necho "${0##*/}" "$@" $FROM_HOOK\n')
    program.chmod(0o755)
    wanted: dict[str, Any] = {"image": SHELL, "mounts": [Mount(tmp_path, "/srv")], "working_dir": "/srv"}
    pod = node.pod(environment=publish_hook(node).reference)
    if rewrites_args(node):
        assert pod.run([script, "a b"], **wanted).stdout == f"{program.name} a b yes\n"
    else:
        text = refused(pod, [script, "a b"], **wanted)
        for word in ("containerd", "containerd 2.2", script, "it has an on-activate hook"):
            assert word in text
    static = node.pod(environment=publish(node).reference)
    assert static.run([script, "a b"], **wanted).stdout == f"{program.name} a b\n"


def test_dev_mode_has_an_output_of_its_own_and_runs_the_packages_scripts(node: Node) -> None:
    name = unused_name()
    publish(node, name, vars={"OUTPUT": "run"})
    interpreter = bash(node)
    profile = render.Package("tool", {"etc/profile.d/9000_tool.sh": 'export TOOL="for $OUTPUT"\n'})
    owner, _, short = name.partition("/")
    path = render.render(
        str(node.store_dir),
        owner,
        short,
        output="dev",
        vars={"OUTPUT": "dev"},
        packages=[shell_tools(), profile],
        bash=f"{interpreter}/bin/bash",
        closure=[interpreter],
    )
    node.publish(name, path, dev=True)
    annotations = {"flox.dev/activate-mode": "dev"}
    container = node.pod(environment=name, annotations=annotations).container(SHOW)
    assert container.annotations["flox.dev/store-path"] == str(path)
    env = variables(container.finish())
    assert (env["OUTPUT"], env["TOOL"], env["CPATH"]) == ("dev", "for dev", f"{path}/include")
    assert variables(node.pod(environment=name).run(SHOW))["OUTPUT"] == "run"


@pytest.mark.parametrize("image", [EMPTY, SHELL])
def test_the_restricted_profile_is_enough(node: Node, image: str) -> None:
    environment = publish_hook(node, "mkdir $FLOX_ENV_CACHE/made && export FROM_HOOK=yes")
    pod = node.pod(environment=environment.reference)
    container = pod.container(
        ["sh", "-c", "id -u; ls $FLOX_ENV_CACHE; sleep 1000"],
        image=image,
        run_as_user=1000,
        run_as_group=1000,
        read_only_root=True,
        drop_capabilities=["ALL"],
    ).start()
    assert "FROM_HOOK=yes" in container.exec(["env"]).stdout.split("\n")
    assert container.output().stdout == "1000\nmade\n"
