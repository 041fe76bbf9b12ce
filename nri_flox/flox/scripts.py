"""The scripts that stand between a runtime and a command, where only a shell can activate the environment.

They are bash, for the very interpreter that the environment's own `activate` names, use its builtins alone, and find
everything by full paths, so the image needs to hold nothing. `start` runs `activate`, which ends in `enter`, which
notes down what the activation has exported and becomes the command; the stand-ins, found through PATH by whoever comes
later, take over what was noted and become the program of their name. This module is pure: it gives their texts.
docs/activation.md shows how they play together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from nri_flox.flox.activation import FLOX_ENV_CACHE
from nri_flox.flox.reference import Mode
from nri_flox.flox.store import StorePath

if TYPE_CHECKING:
    from nri_flox.flox.rendered import Rendered

# In the container.
SCRIPTS = "/nix/nri-flox/scripts"
"""The directory of the scripts."""
STAND_INS = f"{SCRIPTS}/bin"
"""The directory of the stand-ins for the environment's programs, for the front of PATH."""
MAIN = "/nix/nri-flox/main"
"""The directory of the stand-in for the main command, for the front of PATH."""
STATE = "/nix/nri-flox/state"
"""A directory of the container's own, where its processes tell each other of the activation."""

PATIENCE = 30.0  # seconds that a command waits for a hook which still runs

# Found by their bare names in any container, beside the environment's own programs.
_USUAL = ("sh", "bash", "env")

# Options of `activate` from before Flox 1.9, when it ran the command through the user's shell.
_OF_OLD = frozenset({"shell", "watchdog"})


@dataclass(frozen=True, slots=True)
class Scripts:
    """The files of a scripts directory by name, and what there are stand-ins for."""

    files: Mapping[str, str]
    stand_ins: frozenset[str]


@dataclass(frozen=True, slots=True)
class NoScripts:
    """This environment can't be activated by a shell here; `reason` says to people why."""

    reason: str


def first_script(*, own_processes: bool, outside: bool) -> str:
    """The name of the script that stands in for the main command, where the runtime does not rewrite it.

    `own_processes`: the container has a process namespace of its own. `outside`: commands run by exec are to stay
    outside of the environment.
    """
    return f"{'first' if own_processes else 'claim'}-{'outside' if outside else 'attach'}"


def scripts(rendered: Rendered, mode: Mode, description: str, *, patience: float = PATIENCE) -> Scripts | NoScripts:
    """The scripts for an environment in `mode`; `description` is what FLOX_ENV_DESCRIPTION shall say."""
    if not rendered.interpreter:
        return NoScripts("its activate script is missing, or names no interpreter")
    try:
        inside = StorePath.parse("/".join(rendered.interpreter.split("/")[:4])) in rendered.closure
    except ValueError:
        inside = False
    if not inside:
        return NoScripts("the interpreter of its activate script does not belong to its closure")
    if not rendered.options >= {"env", "mode"} or rendered.options & _OF_OLD:
        return NoScripts(
            "it was built by Flox 1.8 or older; build it anew, `flox upgrade` does, with Flox 1.9 or later"
        )
    texts = {
        "start": _START.format(
            activate=quote(f"{rendered.path}/activate"),
            options=_options(rendered, mode, description),
            description=quote(description),
            name=quote(description.rpartition("/")[2]),
            cache=FLOX_ENV_CACHE,
            enter=f"{SCRIPTS}/enter",
            main=MAIN,
            stand_ins=STAND_INS,
            note=_PRIVATELY.format(words='"${_nf_env[@]}"', file=f"{STATE}/before"),
        ),
        "enter": _ENTER.format(
            state=STATE,
            not_ours=_NOT_OURS,
            note=_PRIVATELY.format(words='"${_nf_notes[@]}" =', file=f"{STATE}/env"),
        ),
        "attach": _ATTACH.format(
            state=STATE, main=MAIN, stand_ins=STAND_INS, tries=round(patience / 0.05), patience=f"{patience:g}"
        ),
        "outside": _OUTSIDE.format(main=MAIN),
    }
    for later in ("attach", "outside"):
        texts[f"first-{later}"] = _MAIN.format(condition="[[ $$ == 1 ]]", later=later, scripts=SCRIPTS)
        texts[f"claim-{later}"] = _MAIN.format(condition=_CLAIM.format(state=STATE), later=later, scripts=SCRIPTS)
    return Scripts(
        {name: f"#!{rendered.interpreter} -p\n{text}" for name, text in texts.items()},
        rendered.programs | frozenset(_USUAL),
    )


def _options(rendered: Rendered, mode: Mode, description: str) -> str:
    """What `activate` is called with, as far as it knows the option."""
    wanted = {
        "env": quote(str(rendered.path)),
        "mode": mode.value,
        "env-cache": FLOX_ENV_CACHE,
        "env-project": '"${PWD:-/}"',
        "env-description": quote(description),
    }
    words = [f"--{option} {value}" for option, value in wanted.items() if option in rendered.options]
    if mode is Mode.DEV and "cuda-detection" in rendered.options and rendered.detects_cuda:
        words.append("--cuda-detection")
    return " ".join(words)


# All of them run with `-p`, so that BASH_ENV, SHELLOPTS and functions of the container's env mean nothing to them and
# go on to the command as they are; `set +p` before the end, for SHELLOPTS is passed on where the env has it. Names
# of their own begin with `_nf_`, for a variable of the container's env would be changed under the same name. They stand
# in the way of every command, so nothing in them forks: hence the umask from /proc.

# What the container's user writes there is for nobody else to read.
_PRIVATELY = """\
while read -r _nf_key _nf_umask; do
  if [[ $_nf_key == Umask: ]]; then break; fi
done </proc/self/status
umask 077
if ! printf '%s\\0' {words} >{file}; then
  printf 'flox: %s cannot be written\\n' {file} >&2
  exit 126
fi
umask "$_nf_umask"
"""

_START = """\
for _nf_dir in {main} {stand_ins}; do
  PATH=${{PATH#"$_nf_dir:"}}
done
if [[ ! -x {activate} ]]; then
  printf 'flox: %s is missing or not executable\\n' {activate} >&2
  exit 126
fi
mapfile -d '' -t _nf_env </proc/self/environ
{note}\
export FLOX_ENV_DESCRIPTION={description} FLOX_PROMPT_ENVIRONMENTS={name} FLOX_ENV_CACHE={cache}
set +p
exec {activate} {options} -- {enter} "$@"
"""

# As a pattern: what is no variable to bash, and those that each bash sets for itself, which no activation means.
_NOT_OURS = (
    "'' | *[!a-zA-Z0-9_]* | [0-9]* | "
    "_ | PWD | OLDPWD | SHLVL | SHELLOPTS | BASHOPTS | BASH_VERSINFO | UID | EUID | PPID"
)

# The notes: the PATH that the container began with, then `NAME=value` for what was set and `NAME` for what was unset,
# each ended by a NUL, and a `=` when they are whole.
_ENTER = """\
mapfile -d '' -t _nf_before <{state}/before
mapfile -d '' -t _nf_after </proc/self/environ
declare -A _nf_was=()
for _nf_entry in "${{_nf_before[@]}}"; do
  _nf_was[.${{_nf_entry%%=*}}]=$_nf_entry
done
_nf_notes=("${{_nf_was[.PATH]-PATH=}}")
_nf_kept=0
for _nf_entry in "${{_nf_after[@]}}"; do
  _nf_name=${{_nf_entry%%=*}}
  if [[ ${{_nf_was[.$_nf_name]+set}} ]]; then _nf_kept=$((_nf_kept + 1)); fi
  if [[ ${{_nf_was[.$_nf_name]-}} != "$_nf_entry" ]]; then
    case $_nf_name in {not_ours}) ;; *) _nf_notes+=("$_nf_entry") ;; esac
  fi
done
if ((_nf_kept != ${{#_nf_was[@]}})); then
  for _nf_entry in "${{_nf_after[@]}}"; do
    _nf_name=${{_nf_entry%%=*}}
    case $_nf_name in {not_ours}) ;; *) unset -v "_nf_was[.$_nf_name]" ;; esac
  done
  for _nf_name in "${{!_nf_was[@]}}"; do
    _nf_name=${{_nf_name#.}}
    case $_nf_name in {not_ours}) ;; *) _nf_notes+=("$_nf_name") ;; esac
  done
fi
{note}\
set +p
exec -- "$@"
"""

_ATTACH = """\
_nf_name=${{0##*/}}
_nf_notes=()
_nf_left={tries}
while
  if [[ -O {state}/env ]]; then mapfile -d '' -t _nf_notes <{state}/env; fi
  [[ ${{_nf_notes[*]: -1}} != = ]]
do
  if [[ -e {state}/env && ! -O {state}/env ]]; then
    printf 'flox: %s: the environment was activated by another user\\n' "$_nf_name" >&2
    exit 126
  fi
  if ((_nf_left-- == 0)); then
    printf 'flox: %s: the environment is still being activated after %s s; its on-activate hook has not ended\\n' \\
      "$_nf_name" {patience} >&2
    exit 124
  fi
  if [[ ! ${{_nf_never-}} ]]; then exec {{_nf_never}}<> <(:); fi
  read -r -t 0.05 -u "$_nf_never" _nf_line
done
if [[ ${{_nf_never-}} ]]; then exec {{_nf_never}}>&-; fi
_nf_path=$PATH
for _nf_entry in "${{_nf_notes[@]:1}}"; do
  case $_nf_entry in
    =) ;;
    *=*) export "$_nf_entry" ;;
    *) unset -v "$_nf_entry" ;;
  esac
done 2>/dev/null
if [[ PATH=$_nf_path != "${{_nf_notes[0]}}" ]]; then PATH=$PATH:$_nf_path; fi
PATH=:$PATH:
for _nf_dir in {main} {stand_ins}; do
  while [[ $PATH == *":$_nf_dir:"* ]]; do PATH=${{PATH//":$_nf_dir:"/:}}; done
done
PATH=${{PATH#:}}
PATH=${{PATH%:}}
set +p
case $_nf_name in
  sh | bash)
    if ! hash -- "$_nf_name" 2>/dev/null; then exec -a "$_nf_name" -- "$BASH" "$@"; fi
    ;;
esac
exec -- "$_nf_name" "$@"
"""

_OUTSIDE = """\
PATH=${{PATH#"{main}:"}}
set +p
exec -- "${{0##*/}}" "$@"
"""

# Sourced, for then `$0` still tells the command's name.
_MAIN = """\
if {condition}; then
  set +C -- "${{0##*/}}" "$@"
  . {scripts}/start
fi
set +C
. {scripts}/{later}
"""

# In a shared process namespace nothing but the order tells the container's first process: creating a file succeeds
# once.
_CLAIM = "{{ set -C && printf '' >{state}/claim; }} 2>/dev/null"
