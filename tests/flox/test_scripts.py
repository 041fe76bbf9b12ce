"""The scripts around a command, run by a real bash in a root directory that holds nothing but an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nri_flox.demo import packages
from nri_flox.demo.render import Executable, Link, Package, Tree, add_path, render
from nri_flox.environments.scripts import place
from nri_flox.flox import rendered
from nri_flox.flox.reference import Mode
from nri_flox.flox.rendered import Rendered
from nri_flox.flox.scripts import NoScripts, Scripts, first_script, scripts
from nri_flox.flox.store import Store, StorePath

PATIENCE = 1.0  # seconds

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes the root directory, which only root may")

_APPLETS = ("sh", "env", "cat", "printf", "sleep", "id", "ls", "test", "rm", "mkdir", "readlink", "touch")

# In a mount namespace of its own: what a runtime mounts everywhere.
_ENTER = 'root=$1; shift; mount -t proc proc "$root/proc"; mount --bind /dev "$root/dev"; exec chroot "$root" "$@"'


@dataclass(frozen=True, slots=True)
class Place:
    """A root directory with an environment, as a container has it."""

    root: Path
    environment: StorePath
    front: str = "/nix/nri-flox/scripts/bin"

    def command(self, command: Sequence[str], *, own_processes: bool) -> list[str]:
        apart = ["--pid", "--fork"] if own_processes else []
        return ["unshare", "--mount", *apart, "sh", "-c", _ENTER, "sh", str(self.root), *command]

    def env(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"PATH": f"{self.front}:{self.environment}/bin:/bin", **(env or {})}

    def _run(
        self, command: Sequence[str], env: Mapping[str, str] | None, *, own_processes: bool
    ) -> subprocess.CompletedProcess[str]:
        wanted_env = self.env(env)
        chrooted = self.command(
            [self._found(command[0], wanted_env["PATH"]), *command[1:]], own_processes=own_processes
        )
        program = shutil.which(chrooted[0])
        assert program
        # The shell that enters uses the PATH of the host, and what it runs gets exactly `env`.
        wanted = [f"{name}={value}" for name, value in wanted_env.items()]
        at = chrooted.index(str(self.root)) + 1
        chrooted[at:at] = ["/busybox", "env", "-i", *wanted]
        return subprocess.run([program, *chrooted[1:]], capture_output=True, text=True, timeout=30, check=False)

    def _found(self, command: str, path: str) -> str:
        """Where a runtime would find it."""
        places = [f"{directory}/{command}" for directory in path.split(":")]
        return next((at for at in places if os.path.lexists(f"{self.root}{at}")), command)

    def main(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it as the container's first process, by the script in front."""
        return self._run(["/nix/nri-flox/scripts/start", *command], env, own_processes=True)

    def exec(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it beside, as an exec does: a bare name is found through PATH."""
        return self._run(command, env, own_processes=False)


MakePlace = Callable[..., Place]


@pytest.fixture(scope="session")
def bash_path() -> Path:
    try:
        packages.busybox()
        return packages.bash()
    except packages.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def make_place(tmp_path: Path, bash_path: Path) -> MakePlace:
    def make(*, mode: Mode = Mode.RUN, tamper: Callable[[Path], object] | None = None, **rendering: Any) -> Place:
        root = tmp_path / "root"
        for directory in ("proc", "dev", "bin", "nix/store", "nix/nri-flox/main", "nix/nri-flox/cache"):
            (root / directory).mkdir(parents=True)
        state = root / "nix/nri-flox/state"
        state.mkdir()
        state.chmod(0o1777)
        shutil.copy(packages.busybox(), root / "busybox")
        store = str(root / "nix/store")
        bash = add_path(store, "bash", {"bin/bash": Executable(bash_path.read_bytes())})
        tools = Package(
            "tools",
            {"bin/busybox": Executable(packages.busybox().read_bytes())}
            | {f"bin/{name}": Link("busybox") for name in _APPLETS},
        )
        installed = [tools, *rendering.pop("packages", ())]
        wanted: dict[str, Any] = {"bash": f"{bash}/bin/bash", "closure": [bash], "packages": installed, **rendering}
        path = render(store, "acme", "tools", **wanted)
        found = rendered.read(Store(store), path, _closure(store, path))
        made = scripts(found, mode, "acme/tools", patience=PATIENCE)
        assert isinstance(made, Scripts), made
        os.rename(place(str(root / "nix/nri-flox"), path, made), root / "nix/nri-flox/scripts")
        if tamper is not None:
            tamper(root / f"nix/store/{path.name}")
        return Place(root, path)

    return make


def _closure(store: str, path: StorePath) -> frozenset[StorePath]:
    lines = Path(store, path.name, "requisites.txt").read_text().split()
    return frozenset(map(StorePath.parse, lines))


def variables(output: str) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in output.split("\0")[:-1])


def environ(said: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert said.returncode == 0, said
    return variables(said.stdout)


SHOW = ["cat", "/proc/self/environ"]
NASTY = "a 'b' \"c\" $(touch /evil) `touch /evil` \\ \n tab\t é 🦊 *"


# The main process.


def test_the_command_is_the_first_process_with_its_arguments_byte_for_byte(make_place: MakePlace) -> None:
    place = make_place(hook="echo from the hook")
    arguments = ["", "a b", "ünï 🦊", "'\"`$HOME\\", "-n", "--", "--env", "*", "line\nbreak\ttab", "x" * 5000]
    said = place.main("sh", "-c", 'printf "%s\\0" "$$" "$@"', "sh", *arguments)
    assert said.stdout.split("\0") == ["1", *arguments, ""]
    assert said.stderr == "from the hook\n"
    assert place.main("sh", "-c", "cat /proc/1/cmdline").stdout == "cat\0/proc/1/cmdline\0"
    assert place.main("sh", "-c", "exit 42").returncode == 42


def test_exports_of_the_hook_and_the_variables_reach_the_command(make_place: MakePlace) -> None:
    hook = 'export FROM_HOOK="$LEVEL and $OWN"; not_exported=1; unset GONE; export NASTY="$OWN"'
    env = environ(make_place(vars={"LEVEL": "debug"}, hook=hook).main(*SHOW, env={"OWN": NASTY, "GONE": "x"}))
    assert env["FROM_HOOK"] == f"debug and {NASTY}"
    assert env["NASTY"] == NASTY
    assert env["FLOX_ENV_DESCRIPTION"] == "acme/tools"
    assert "not_exported" not in env
    assert "GONE" not in env
    assert not [name for name in env if name.startswith("_nf_")]


@pytest.mark.parametrize("flox", ["1.9", "1.12", "1.14.1"])
def test_the_environment_ends_as_if_activate_had_been_run_by_hand(make_place: MakePlace, flox: str) -> None:
    place = make_place(vars={"A": "$B/x", "B": "1"}, hook="export C=$A", flox=flox)
    own = {"B": "b", "PATH": "/opt/bin:/bin", "SHLVL": "3", "XDG_DATA_DIRS": "/x", "my.var-1": "odd"}
    options = f"--env {place.environment} --mode run --env-project / "
    options += "" if flox == "1.12" else "--env-cache /nix/nri-flox/cache "
    options += "--env-description acme/tools " if flox == "1.9" else ""
    by_hand = environ(
        place._run([f"{place.environment}/activate", *options.split(), "--", *SHOW], own, own_processes=True)
    )
    by_script = environ(place.main(*SHOW, env=own))
    added = {"FLOX_ENV_DESCRIPTION", "FLOX_PROMPT_ENVIRONMENTS", "FLOX_ENV_CACHE"} - by_hand.keys()
    assert {name: value for name, value in by_script.items() if name not in added} == by_hand


def test_variables_that_steer_bash_go_on_to_the_command_and_do_not_steer_the_scripts(make_place: MakePlace) -> None:
    place = make_place(hook="export A=1")
    own = {"ENV": "/evil", "BASH_FUNC_mapfile%%": "() { echo evil; }", "BASH_FUNC_umask%%": "() { echo evil; }"}
    for said in (place.main(*SHOW, env=own), place.exec(*SHOW, env=own)):
        env = environ(said)
        assert (env["A"], env["ENV"], said.stderr) == ("1", "/evil", "")
        assert own.keys() <= env.keys()


def test_bash_env_is_for_the_environments_own_activate_as_ever(make_place: MakePlace) -> None:
    place = make_place()
    (place.root / "hello").write_text("echo hello >&2\n")
    said = place.main(*SHOW, env={"BASH_ENV": "/hello"})
    assert environ(said)["BASH_ENV"] == "/hello"
    assert said.stderr == "hello\n"


def test_a_hook_that_fails_is_the_end(make_place: MakePlace) -> None:
    said = make_place(hook="echo it broke >&2; exit 7").main("sh", "-c", "echo never")
    assert (said.returncode, said.stdout, said.stderr) == (7, "", "it broke\n")


def test_a_command_that_is_nowhere_is_the_end(make_place: MakePlace) -> None:
    said = make_place(hook=":").main("nowhere")
    assert said.returncode == 127
    assert "nowhere: not found" in said.stderr


@pytest.mark.parametrize("tamper", [lambda it: (it / "activate").unlink(), None], ids=["missing", "not executable"])
def test_an_activate_that_cannot_be_run_is_named(
    make_place: MakePlace, tamper: Callable[[Path], object] | None
) -> None:
    def forbid(environment: Path) -> None:
        target = os.readlink(environment / "activate")
        (environment.parent / target.removeprefix("/nix/store/")).chmod(0o444)

    said = make_place(tamper=tamper or forbid).main("sh", "-c", "echo never")
    assert (said.returncode, said.stdout) == (126, "")
    assert said.stderr.startswith("flox: /nix/store/")
    assert "/activate is missing or not executable" in said.stderr


def test_dev_mode_runs_the_profile_scripts_of_packages(make_place: MakePlace) -> None:
    profile: Tree = {"etc/profile.d/9000_tool.sh": 'export TOOL="$LEVEL"\n', "bin/tool": Executable("#!/bin/sh\n")}
    place = make_place(mode=Mode.DEV, vars={"LEVEL": "dev"}, packages=[Package("tool", profile)])
    env = environ(place.main(*SHOW))
    assert env["TOOL"] == "dev"
    assert env["CPATH"] == f"{place.environment}/include"


def test_run_mode_runs_none_of_them(make_place: MakePlace) -> None:
    profile = {"etc/profile.d/9000_tool.sh": "export TOOL=1\n"}
    assert "TOOL" not in environ(make_place(packages=[Package("tool", profile)]).main(*SHOW))


# What exec runs later.


def test_a_bare_name_gets_what_the_activation_exported_and_the_hook_is_not_run_again(make_place: MakePlace) -> None:
    place = make_place(vars={"LEVEL": "debug"}, hook='echo ran >&2; export OWN="$OWN!" FROM_HOOK=1; unset GONE')
    own = {"OWN": NASTY, "GONE": "x"}
    first = environ(place.main(*SHOW, env=own))
    later = place.exec(*SHOW, env=own)
    assert later.stderr == ""
    theirs = environ(later)
    for name in ("SHLVL", "_", "OLDPWD"):
        first.pop(name, None), theirs.pop(name, None)
    assert theirs == first
    assert (place.root / "nix/nri-flox/state/env").stat().st_mode & 0o777 == 0o600


def test_what_the_caller_set_stays_unless_the_activation_sets_it(make_place: MakePlace) -> None:
    place = make_place(vars={"LEVEL": "debug"}, hook=":")
    place.main(*SHOW)
    mine = {"LEVEL": "mine", "OTHER": "mine", "PATH": f"{place.env()['PATH']}:/opt/mine"}
    env = environ(place.exec(*SHOW, env=mine))
    assert (env["LEVEL"], env["OTHER"]) == ("debug", "mine")
    assert env["PATH"].endswith(":/opt/mine")
    assert "nri-flox" not in env["PATH"]


def test_a_stand_in_never_finds_itself(make_place: MakePlace) -> None:
    place = make_place(hook=":")
    place.main(*SHOW)
    said = place.exec("bash", "-c", "echo $0 $BASH_VERSION; command -v bash; echo $PATH")
    assert said.stdout.startswith("bash 5."), "the closure's, where the image has none"
    assert "nri-flox" not in said.stdout
    alone = replace(place, front="/nix/nri-flox/scripts/bin:/nix/nri-flox/main:/nix/nri-flox/scripts/bin")
    (place.root / "nix/nri-flox/main/nothing").symlink_to("../scripts/attach")
    said = alone.exec("nothing")
    assert said.returncode == 127
    assert "nothing: not found" in said.stderr


def test_exec_waits_for_the_hook(make_place: MakePlace) -> None:
    place = make_place(hook=f"{{ sleep {PATIENCE / 4}; }}; export READY=yes")
    with ThreadPoolExecutor() as executor:
        main = executor.submit(place.main, "sh", "-c", ":")
        assert environ(place.exec(*SHOW))["READY"] == "yes"
        assert main.result().returncode == 0


def test_exec_gives_up_on_a_hook_that_does_not_end(make_place: MakePlace) -> None:
    place = make_place(hook=":")
    began = time.monotonic()
    said = place.exec("cat", "/proc/self/environ")
    assert time.monotonic() - began >= PATIENCE
    assert (said.returncode, said.stdout) == (124, "")
    assert said.stderr == (
        "flox: cat: the environment is still being activated after 1 s; its on-activate hook has not ended\n"
    )


def test_half_written_notes_are_not_taken(make_place: MakePlace) -> None:
    place = make_place(hook=":")
    for notes in ("", "PATH=/bin\0A=1\0", "PATH=/bin\0A=1"):
        (place.root / "nix/nri-flox/state/env").write_text(notes)
        assert place.exec("cat", "/proc/self/environ").returncode == 124


# Standing in for the main command.


def stand_in(place: Place, name: str, **kind: bool) -> Place:
    script = place.root / "nix/nri-flox/scripts" / first_script(**kind)
    shutil.copy(script, place.root / "nix/nri-flox/main" / name)
    return replace(place, front=f"/nix/nri-flox/main:{place.front}")


def test_the_first_process_by_that_name_is_the_main_one(make_place: MakePlace) -> None:
    place = stand_in(make_place(hook="echo ran >&2; export A=1"), "sh", own_processes=True, outside=False)
    said = place._run(["sh", "-c", 'echo $$ "$0" "$@" $A $PATH', "x", "y z"], None, own_processes=True)
    assert said.stdout == f"1 x y z 1 {place.environment}/bin:/bin\n"
    assert said.stderr == "ran\n"
    later = place.exec("sh", "-c", "echo $A $PATH")
    assert (later.stdout, later.stderr) == (f"1 {place.environment}/bin:/bin\n", "")


def test_in_a_shared_namespace_it_is_the_first_that_comes(make_place: MakePlace) -> None:
    place = stand_in(make_place(hook="echo ran >&2; export A=1"), "sh", own_processes=False, outside=False)
    said = [place.exec("sh", "-c", "echo $A; echo > /file; echo > /file") for _ in range(3)]
    assert [one.stdout for one in said] == ["1\n"] * 3
    assert [one.stderr for one in said] == ["ran\n", "", ""]


@pytest.mark.parametrize("own_processes", [True, False])
def test_exec_can_stay_outside(make_place: MakePlace, own_processes: bool) -> None:
    made = make_place(hook="echo ran >&2; export A=inside")
    place = replace(stand_in(made, "env", own_processes=own_processes, outside=True), front="/nix/nri-flox/main")
    first = place._run(["env"], None, own_processes=own_processes)
    assert (first.stderr, "A=inside" in first.stdout) == ("ran\n", True)
    later = place.exec("env", env={"A": "outside"})
    assert later.stderr == ""
    assert "A=outside" in later.stdout.splitlines()
    assert "nri-flox" not in later.stdout


# Environments that no script can be made for.


def bare(**changes: Any) -> Rendered:
    path = StorePath.parse(f"/nix/store/{'0' * 32}-environment-run")
    bash = StorePath.parse(f"/nix/store/{'1' * 32}-bash")
    made = Rendered(
        path=path,
        closure=frozenset({path, bash}),
        envrc="",
        run_paths="",
        has_hook=True,
        options=frozenset({"env", "mode", "env-project"}),
        interpreter=f"{bash}/bin/bash",
        programs=frozenset({"tool"}),
        detects_cuda=True,
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpreter": ""}, "missing, or names no interpreter"),
        ({"interpreter": "/usr/bin/env"}, "does not belong to its closure"),
        ({"interpreter": f"/nix/store/{'2' * 32}-bash/bin/bash"}, "does not belong to its closure"),
        ({"options": frozenset()}, "Flox 1.8 or older"),
        ({"options": frozenset({"env", "mode", "shell", "watchdog"})}, "Flox 1.8 or older"),
    ],
)
def test_what_cannot_be_scripted_says_why(changes: Mapping[str, Any], words: str) -> None:
    made = scripts(bare(**changes), Mode.RUN, "acme/tools")
    assert isinstance(made, NoScripts)
    assert words in made.reason


def test_options_are_those_that_activate_declares() -> None:
    known = frozenset({"env", "mode", "env-project", "env-cache", "cuda-detection"})
    for mode, cuda in ((Mode.RUN, False), (Mode.DEV, True)):
        made = scripts(bare(options=known), mode, "acme/tools")
        assert isinstance(made, Scripts)
        for option in ("--env-cache /nix/nri-flox/cache", f"--mode {mode}"):
            assert option in made.files["start"]
        assert ("--cuda-detection" in made.files["start"]) is cuda
        assert "--env-description" not in made.files["start"]
    made = scripts(bare(options=known, detects_cuda=False), Mode.DEV, "acme/tools")
    assert isinstance(made, Scripts)
    assert "--cuda-detection" not in made.files["start"]
