"""What a plan sets, in which container, and why it sometimes cannot."""

import time

import pytest

from nri_flox.flox.activation import NeedsShell, ScriptedPlan, StaticPlan, plan
from nri_flox.flox.reference import Mode
from nri_flox.flox.rendered import Rendered
from nri_flox.flox.store import StorePath

PATH = StorePath.parse("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-environment-run")
ENV = str(PATH)
RUN_PATHS = """\
INFOPATH="$FLOX_ENV/share/info:${INFOPATH:-}"
XDG_DATA_DIRS="$FLOX_ENV/share${XDG_DATA_DIRS:+:$XDG_DATA_DIRS}"

export INFOPATH XDG_DATA_DIRS
"""
DEFAULTS = """\
export SSL_CERT_FILE="${SSL_CERT_FILE:-/nix/store/ca/ca.crt}"
export NIX_SSL_CERT_FILE="${NIX_SSL_CERT_FILE:-${SSL_CERT_FILE}}"
"""


def rendered(
    envrc: str = "", *, run_paths: str = RUN_PATHS, has_hook: bool = False, options: str = "env mode add-sbin"
) -> Rendered:
    return Rendered(
        path=PATH,
        closure=frozenset({PATH}),
        envrc=envrc,
        run_paths=run_paths,
        has_hook=has_hook,
        options=frozenset(options.split()),
        interpreter="",
        programs=frozenset(),
        detects_cuda=True,
    )


def static(envrc: str = "", *, run_paths: str = RUN_PATHS, options: str = "env mode add-sbin") -> StaticPlan:
    made = plan(rendered(envrc, run_paths=run_paths, options=options), Mode.RUN)
    assert isinstance(made, StaticPlan), made
    return made


def environ(envrc: str, container: dict[str, str]) -> dict[str, str]:
    made = static(envrc)
    dependent = made.environ(container)
    assert not isinstance(dependent, NeedsShell), dependent
    return dict(made.constants) | dependent


def test_an_environment_without_anything_sets_what_flox_always_sets() -> None:
    assert environ("", {}) == {
        "FLOX_ENV": ENV,
        "FLOX_ENV_CACHE": "/nix/nri-flox/cache",
        "FLOX_ENV_DIRS": ENV,
        "FLOX_ENV_PROJECT": "/proc/self/cwd",
        "INFOPATH": f"{ENV}/share/info:",
        "MANPATH": f"{ENV}/share/man:",
        "PATH": f"{ENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "XDG_DATA_DIRS": f"{ENV}/share",
    }


def test_the_description_is_the_environments_name() -> None:
    made = plan(rendered(), Mode.RUN, "acme/web")
    assert isinstance(made, StaticPlan)
    assert dict(made.constants)["FLOX_ENV_DESCRIPTION"] == "acme/web"
    assert dict(made.constants)["FLOX_PROMPT_ENVIRONMENTS"] == "web"


def test_older_versions_put_sbin_on_the_path_too() -> None:
    made = static(options="env mode").environ({"PATH": "/bin"})
    assert not isinstance(made, NeedsShell)
    assert made["PATH"] == f"{ENV}/bin:{ENV}/sbin:/bin"


def test_older_versions_end_the_info_path_without_a_colon() -> None:
    run_paths = 'INFOPATH="$FLOX_ENV/share/info${INFOPATH:+:$INFOPATH}"\nexport INFOPATH\n'
    for own, expected in (("/i", f"{ENV}/share/info:/i"), ("", f"{ENV}/share/info")):
        made = static(run_paths=run_paths).environ({"INFOPATH": own})
        assert not isinstance(made, NeedsShell)
        assert made["INFOPATH"] == expected


@pytest.mark.parametrize(
    ("own", "result"),
    [
        ("/bin", "{bin}:/bin"),
        ("", "{bin}"),
        ("/a:/b", "{bin}:/a:/b"),
        ("/a:/b:/a", "{bin}:/a:/b"),
        ("/a:/b/:/a/:/b:/./a:/b//.", "{bin}:/a:/b/"),
        ("/a:{bin}:/b", "{bin}:/a:/b"),
        (":/a::", "{bin}::/a::"),
        ("/:/", "{bin}:/"),
        (".:./a:a", "{bin}:.:./a:a"),
        ("/a/../b:/b", "{bin}:/a/../b:/b"),
    ],
)
def test_the_environments_programs_come_first_and_nothing_comes_twice(own: str, result: str) -> None:
    container = {"PATH": own.format(bin=f"{ENV}/bin")}
    assert environ("", container)["PATH"] == result.format(bin=f"{ENV}/bin")


@pytest.mark.parametrize(
    ("own", "result"),
    [
        ("", "{man}:"),
        ("/m", "{man}:/m:"),
        ("/m:", "{man}:/m:"),
        (":/m", "{man}::/m"),
        ("/m::/n", "{man}:/m::/n"),
    ],
)
def test_manuals_of_the_system_are_still_found(own: str, result: str) -> None:
    assert environ("", {"MANPATH": own})["MANPATH"] == result.format(man=f"{ENV}/share/man")


def test_environments_that_are_active_already_stay_behind_it() -> None:
    result = environ("", {"FLOX_ENV_DIRS": "/other", "PATH": "/other/bin:/bin"})
    assert result["FLOX_ENV_DIRS"] == f"{ENV}:/other"
    assert result["PATH"] == f"{ENV}/bin:/other/bin:/bin"


def test_what_the_container_has_already_is_not_set_again() -> None:
    made = static(DEFAULTS)
    first = made.environ({})
    assert not isinstance(first, NeedsShell)
    assert made.environ(first | {"MANPATH": f"{ENV}/share/man:"}) == {
        "INFOPATH": f"{ENV}/share/info:{ENV}/share/info:",
        "XDG_DATA_DIRS": f"{ENV}/share:{ENV}/share",
    }


@pytest.mark.parametrize(
    ("container", "certificates", "for_nix"),
    [
        ({}, "/nix/store/ca/ca.crt", "/nix/store/ca/ca.crt"),
        ({"SSL_CERT_FILE": "/mine"}, "/mine", "/mine"),
        ({"SSL_CERT_FILE": ""}, "/nix/store/ca/ca.crt", "/nix/store/ca/ca.crt"),
        ({"NIX_SSL_CERT_FILE": "/mine"}, "/nix/store/ca/ca.crt", "/mine"),
    ],
)
def test_a_default_stands_behind_what_the_container_says(
    container: dict[str, str], certificates: str, for_nix: str
) -> None:
    result = container | environ(DEFAULTS, container)
    assert (result["SSL_CERT_FILE"], result["NIX_SSL_CERT_FILE"]) == (certificates, for_nix)


def test_a_variable_of_the_manifest_stands_before_it() -> None:
    assert environ('export MODE="fast"\n', {"MODE": "slow"})["MODE"] == "fast"


@pytest.mark.parametrize(
    ("envrc", "container", "expected"),
    [
        ('export A="1"\nexport A="2"\n', {}, {"A": "2"}),
        ('export A="1"\nexport B="$A"\nexport A="2"\n', {}, {"A": "2", "B": "1"}),
        ('export A="$X"\nexport B="$A"\nexport A="2"\n', {"X": "x"}, {"A": "2", "B": "x"}),
        ('export A="1"\nexport A="$A$X"\nexport B="$A"\n', {"X": "x"}, {"A": "1x", "B": "1x"}),
        ('export PATH="/first:$PATH"\n', {"PATH": "/bin"}, {"PATH": f"/first:{ENV}/bin:/bin"}),
        ('export PATH="/only"\nexport A="$PATH"\n', {}, {"PATH": "/only", "A": "/only"}),
        ('export A="$FLOX_ENV/x:$FLOX_ENV_CACHE"\n', {}, {"A": f"{ENV}/x:/nix/nri-flox/cache"}),
        ('export HOME="/h"\nexport A="$HOME"\n', {}, {"A": "/h"}),
        ('export A="${X:+set}${Y:-unset}"\n', {"X": "x"}, {"A": "setunset"}),
        ('export EMPTY=""\nexport A="${EMPTY:-fallback}"\n', {}, {"EMPTY": "", "A": "fallback"}),
    ],
)
def test_variables_see_those_before_them(envrc: str, container: dict[str, str], expected: dict[str, str]) -> None:
    result = environ(envrc, container)
    assert {name: result[name] for name in expected} == expected


def test_what_no_container_changes_is_constant() -> None:
    made = static('export A="1"\nexport B="$A/$FLOX_ENV"\nexport C="$HOME"\n')
    constants = dict(made.constants)
    assert constants["B"] == f"1/{ENV}"
    assert "C" not in constants


def test_the_inputs_are_all_that_the_result_depends_on() -> None:
    made = static('export A="${X:-${Y:+$Z}}"\n')
    assert set(made.inputs) >= {"A", "X", "Y", "Z", "PATH", "MANPATH", "FLOX_ENV_DIRS", "INFOPATH"}
    container = dict.fromkeys(made.inputs, "value")
    assert made.environ(container) == made.environ(container | {"UNRELATED": "x"})


@pytest.mark.parametrize("name", ["HOME", "HOSTNAME", "TERM", "SHELL"])
@pytest.mark.parametrize("container_has", [None, ""])
@pytest.mark.parametrize("form", ["${}", "${{{}}}", "${{{}:-x}}", "${{{}:+x}}"])
def test_what_only_the_process_knows_needs_a_shell(name: str, container_has: str | None, form: str) -> None:
    made = static(f'export A="{form.format(name)}"\n')
    container = {} if container_has is None else {name: container_has}
    result = made.environ(container)
    assert isinstance(result, NeedsShell)
    assert name in result.reason
    assert not isinstance(made.environ({name: "known"}), NeedsShell)


def test_a_variable_that_is_not_set_ends_the_activation_so_a_shell_must_say_it() -> None:
    result = static('export A="$NOWHERE"\n').environ({})
    assert isinstance(result, NeedsShell)
    assert "NOWHERE is used and not set" in result.reason


@pytest.mark.parametrize(
    ("environment", "mode", "reason"),
    [
        (rendered(), Mode.DEV, "mode dev"),
        (rendered(has_hook=True), Mode.RUN, "on-activate hook"),
        (rendered('\nexport A="$(id)"\n'), Mode.RUN, "envrc, line 2: a command substitution"),
        (rendered(run_paths="id\n"), Mode.RUN, "the run-mode paths script, line 1: a command"),
        (rendered("A=1\n"), Mode.RUN, "envrc, sets A without exporting it"),
        (rendered("export A=1\nA=2\n"), Mode.RUN, "envrc, sets A without exporting it"),
        (rendered("export TERM\n"), Mode.RUN, "envrc, exports TERM, which it does not set"),
        (rendered("#" * 65537), Mode.RUN, "envrc, longer than 64 KiB"),
    ],
)
def test_what_needs_a_shell_is_scripted_and_says_why(environment: Rendered, mode: Mode, reason: str) -> None:
    made = plan(environment, mode)
    assert isinstance(made, ScriptedPlan)
    assert reason in made.reason


@pytest.mark.parametrize("name", ["PATH", "MANPATH", "FLOX_ENV_DIRS"])
def test_a_very_long_search_path_does_not_hold_up_the_node(name: str) -> None:
    assert isinstance(static().environ({name: "/a:" * 6000}), NeedsShell)


HOSTILE = {
    "doubling": "export A=aaaaaaaaaaaaaaaa\n" + 'export A="$A$A"\n' * 60,
    "doubling what the container has": 'export A="$X$X"\n' + 'export A="$A$A"\n' * 60,
    "much of one": 'export A="' + "$X" * 30000 + '"\n',
    "much of nothing": 'export A="' + "$E" * 30000 + '"\n',
    "long ones in defaults": "export A=" + "a" * 60000 + '\nexport B="' + "${U:-$A.}" * 500 + '"\n',
    "many long ones": "export A=" + "a" * 40000 + "\n" + 'export B="$A."\n' * 1000,
    "many long ones of the container": 'export B="$X."\n' * 4000,
    "deep": 'export A="' + "${A:-" * 10000,
    "unended": 'export A="\n' * 5001,
}


@pytest.mark.parametrize("envrc", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_envrc_takes_little_time_and_room(envrc: str) -> None:
    began = time.perf_counter()
    made = plan(rendered(envrc), Mode.RUN)
    if isinstance(made, StaticPlan):
        made = made.environ({"X": "x" * 10000, "E": ""})  # type: ignore[assignment]
    assert isinstance(made, ScriptedPlan | NeedsShell)
    assert time.perf_counter() - began < 2


def test_what_needs_no_shell_is_known_of_a_scripted_environment_too() -> None:
    envrc = DEFAULTS + 'export LEVEL=debug\nexport DATA="$ROOT/data"\nexport OPTS="$OPTS -v"\n'
    made = plan(rendered(envrc, has_hook=True), Mode.RUN)
    assert isinstance(made, ScriptedPlan)
    preset = made.part.preset({"ROOT": "/srv", "OPTS": "-x", "PATH": "/bin"})
    assert dict(made.part.preset_constants)["LEVEL"] == "debug"
    assert preset["DATA"] == "/srv/data"
    assert preset["PATH"] == f"{ENV}/bin:/bin"
    assert preset["SSL_CERT_FILE"] == "/nix/store/ca/ca.crt"
    assert "OPTS" not in preset, "the activation would add to it again"


def test_search_paths_are_known_of_any_environment() -> None:
    made = plan(rendered('export A="$(date)"\n'), Mode.RUN)
    assert isinstance(made, ScriptedPlan)
    assert made.part.preset({"PATH": "/bin"}).keys() == {"PATH", "MANPATH", "FLOX_ENV_DIRS"}
    assert made.part.preset({"PATH": "x" * 20_000})["PATH"].startswith(f"{ENV}/bin:x")
