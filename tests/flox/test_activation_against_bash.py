"""The static plan against bash itself: whatever it does not leave to a shell, it must say as bash does.

Environments are made up, good and nasty. Where the plan is static, bash sources the same scripts under the
`set -euo pipefail` of Flox's activate, beginning with the container's env; both must end with the same.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from nri_flox.flox.activation import NeedsShell, ScriptedPlan, StaticPlan, plan
from nri_flox.flox.reference import Mode
from nri_flox.flox.rendered import Rendered
from nri_flox.flox.store import StorePath

BASH = shutil.which("bash")
ENV = StorePath.parse("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-environment-run")
# Bash's own bookkeeping, which is no part of an activation.
NOISE = ("PWD", "OLDPWD", "SHLVL", "_")

pytestmark = pytest.mark.skipif(BASH is None, reason="compares with bash, which is not installed")

texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("ab:/ \n\"'$\\`~*?{}"),
    max_size=8,
)
# What containers have; A, B and E always, so that most plans can be carried through.
environments = st.fixed_dictionaries(
    {"A": texts, "B": texts, "E": st.just("")},
    optional=dict.fromkeys(("HOME", "HOSTNAME", "TERM", "SSL_CERT_FILE", "XDG_DATA_DIRS", "PATH"), texts),
)
assignable = st.sampled_from(
    [*"ABCDEGHIJKLMNOPQRSTUVWXYZ", *("PATH", "HOME", "SSL_CERT_FILE", "MANPATH", "LC_ALL", "LANG", "ENV", "TERM")]
)
set_names = st.sampled_from(["A", "B", "E", "PATH", "MANPATH", "XDG_DATA_DIRS", "FLOX_ENV"])
any_names = set_names | st.sampled_from(["C", "D", "SSL_CERT_FILE", "HOME", "HOSTNAME"])

# Pieces of what stands between double quotes: mostly such as we take, some that we must leave to bash.
literals = st.sampled_from(
    [
        *("a", "b c", "/x/y", "~/b", "{a,b}", "é", *"~*:#;&|!%=()[]{}\n\t\r"),
        *(f"\\{character}" for character in '\\$"`na}\n'),
        *(f"${character}" for character in " /%.:]=^,;+~&|<>\\"),
    ]
)
odd_literals = st.sampled_from(["'", "it's", '"', "$'", "$}", "$", "\\", "`", "$(", "${", "$C", "${C-x}"])
references = set_names.map(lambda name: f"${name}") | set_names.map(lambda name: f"${{{name}}}")
rarely = st.integers(0, 200).map(lambda number: number == 0)


def alternatives(pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda name, operator, inner: f"${{{name}{operator}{''.join(inner)}}}",
        any_names,
        st.sampled_from([":-", ":+"]),
        st.lists(pieces, max_size=3),
    )


inner_pieces = rarely.flatmap(lambda odd: odd_literals if odd else literals | references)
pieces = inner_pieces | alternatives(inner_pieces | alternatives(inner_pieces))
double_quoted = st.lists(pieces, min_size=1, max_size=6).map(lambda parts: f'"{"".join(parts)}"')
single_quoted = texts.map(lambda text: f"'{text.replace(chr(39), '')}'")
plain = st.sampled_from(["a", "/x:y", "1.5", "a,b", *"-@+%=*?!^#[]", "a=b", "--x=y,z", "[a]*", "/*", "$A", "${B}"])
blanks = st.sampled_from([" ", "  ", "\t", " #", "\n"])
unquoted_alternatives = alternatives(plain | plain | blanks | single_quoted | double_quoted)
bare = plain | alternatives(plain | blanks | single_quoted | double_quoted | unquoted_alternatives)
odd_bare = st.sampled_from(["~", "{a,b}", "\\a", "${C:-~}", "${C:-{a,b}}", " ", "b c", "a:~", "a=~", "$'a'"])
parts = st.one_of(double_quoted, double_quoted, single_quoted, bare)
words = st.lists(rarely.flatmap(lambda odd: odd_bare if odd else parts), max_size=2).map("".join)
assignments = st.builds(lambda name, word: f"{name}={word}", assignable, words)
several = st.lists(assignments, min_size=1, max_size=3).flatmap(
    lambda made: st.sampled_from([" ", "\t", "  "]).map(lambda blank: blank.join(made))
)
ends = st.sampled_from(["", "", "", " ", " # why", "\t#'", "  #"])
lines = st.builds(lambda made, end: f"export {made}{end}\n", assignments | assignments | several, ends)
other_lines = st.sampled_from(
    [
        *("\n", "# export A=1\n", "  \t\n", "BASH_ENVTRACE_RESET=1\n", "unset BASH_ENVTRACE_RESET\n"),
        *("A=1\nexport A\n", "  export A=1  \n", "export\tB=2\n", "A=1 # why\nexport A B=$A # too\n"),
    ]
)
odd_lines = st.sampled_from(["A=1\n", "export A=1 B=$A\n", "A=1 B=2\n", "export A = 1\n", "export A=1;\n"])
scripts = st.lists(
    rarely.flatmap(lambda odd: odd_lines if odd else lines | lines | lines | other_lines), min_size=3, max_size=10
).map("".join)

RUN_PATHS = """\
INFOPATH="$FLOX_ENV/share/info:${INFOPATH:-}"
XDG_DATA_DIRS="$FLOX_ENV/share${XDG_DATA_DIRS:+:$XDG_DATA_DIRS}"

export INFOPATH XDG_DATA_DIRS
"""


def rendered(envrc: str, run_paths: str = RUN_PATHS) -> Rendered:
    return Rendered(
        path=ENV,
        closure=frozenset({ENV}),
        envrc=envrc,
        run_paths=run_paths,
        has_hook=False,
        options=frozenset({"env", "mode", "add-sbin"}),
        interpreter="",
        programs=frozenset(),
        detects_cuda=True,
    )


def after_bash(tmp_path: Path, envrc: str, container_env: dict[str, str]) -> dict[str, str] | None:
    """The env after the scripts, or None where they fail."""
    # What activate itself sets is not bash, so it is taken from a plan without scripts.
    base = plan(rendered("", run_paths=""), Mode.RUN)
    assert isinstance(base, StaticPlan)
    before = base.environ(container_env)
    assert not isinstance(before, NeedsShell)
    script = tmp_path / "script"
    (tmp_path / "envrc").write_bytes(envrc.encode())
    script.write_text(f"set -euo pipefail\n{RUN_PATHS}. {tmp_path}/envrc\nexec /usr/bin/env -0\n")
    assert BASH is not None
    done = subprocess.run(
        [BASH, str(script)],
        env=container_env | before | dict(base.constants),
        capture_output=True,
        cwd=tmp_path,
        timeout=10,
        check=False,
    )
    if done.returncode != 0:
        return None
    entries = done.stdout.decode().split("\0")[:-1]
    return {name: value for name, _, value in (entry.partition("=") for entry in entries) if name not in NOISE}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bash")


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(envrc=scripts, container_env=environments)
@example(envrc='export A="${B:-a\\}b}"\n', container_env={})
@example(envrc='export A="${B:-{a}}"\n', container_env={})
@example(envrc="export LC_ALL=C\nexport A='é'$LC_ALL\"é\"\n", container_env={})
def test_a_static_plan_says_what_bash_does(directory: Path, envrc: str, container_env: dict[str, str]) -> None:
    compare(directory, envrc, container_env)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    value=st.text(st.sampled_from("aB ~:/-+{}$$$\"'\\\\`\n=#"), max_size=14),
    container_env=st.fixed_dictionaries({}, optional={"B": texts, "a": texts}),
)
def test_a_value_of_any_text_is_bash_or_is_left_to_it(
    directory: Path, value: str, container_env: dict[str, str]
) -> None:
    compare(directory, f'export A="{value}"\n', container_env)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(envrc=scripts, container_env=environments)
@example(envrc='export A="${B:-x}"\nexport B=1\n', container_env={})
@example(envrc='export A="$A:x"\nexport C="$A"\n', container_env={"A": "a"})
@example(envrc='export PATH="$PATH:/x"\nexport MANPATH=/m\n', container_env={"PATH": "/bin"})
@example(envrc='export A="${A:-$B}"\nexport B="$E"\n', container_env={"B": "b", "E": "e"})
def test_what_is_preset_for_a_shell_does_not_change_where_it_ends(
    directory: Path, envrc: str, container_env: dict[str, str]
) -> None:
    # Two shells never have the same number.
    assume("$$" not in envrc)
    made = plan(rendered(envrc), Mode.RUN)
    part = made.part if isinstance(made, ScriptedPlan) else made
    preset = dict(part.preset_constants) | part.preset(container_env)
    event("more than search paths" if preset.keys() - {"PATH", "MANPATH", "FLOX_ENV_DIRS"} else "search paths")
    alone = after_bash(directory, envrc, container_env)
    if alone is not None:
        assert after_bash(directory, envrc, container_env | preset) == alone


def compare(directory: Path, envrc: str, container_env: dict[str, str]) -> None:
    static = plan(rendered(envrc), Mode.RUN)
    if isinstance(static, ScriptedPlan):
        event("scripted")
        return
    dependent = static.environ(container_env)
    if isinstance(dependent, NeedsShell):
        event("static, but not in this container")
        return
    event("static")
    expected = after_bash(directory, envrc, container_env)
    assert expected is not None, "bash fails where the plan sets variables"
    actual = container_env | dict(static.constants) | dependent
    assert {name: value for name, value in actual.items() if name not in NOISE} == expected
