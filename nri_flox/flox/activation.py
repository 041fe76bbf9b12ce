"""What activating an environment does to the env of a command: the plan.

Most environments set a few search paths and variables. For those the plan is static: it says what
`flox activate --mode run -- COMMAND` would leave in the env, and no process is needed. Anything it cannot say
with certainty (a hook, a command substitution, a variable only the running process knows) makes it scripted,
and Flox's own `activate` has to do it in the container; the reasons name lines and constructs, never values,
which may be secret. This module is pure: it reads nothing and runs nothing.

The order is Flox's: FLOX_ENV and the search paths from `activate` itself, then the run-mode script of the
interpreter, then `envrc`, each seeing what came before. All of it runs under `set -u`: a variable that is not
set ends the activation. Facts from the public sources of Flox 1.7.6 to 1.14.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nri_flox.flox.envrc import Expansion, UnsupportedError, Word, parse
from nri_flox.flox.reference import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nri_flox.flox.rendered import Rendered

FLOX_ENV_CACHE = "/nix/nri-flox/cache"
"""The container's own writable directory, where the plugin mounts it."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of a container whose env has none."""

# `activate` computes these before it runs any script, and finds its own result again when it meets it.
_SEARCH_PATHS = frozenset({"FLOX_ENV_DIRS", "PATH", "MANPATH"})

# NRI does not tell the working directory. This link does, to every process about itself: for the container's
# command it is the directory it starts in.
_FLOX_ENV_PROJECT = "/proc/self/cwd"

# Set by the runtime or by bash when the container's env has them not, or empty.
_FILLED_IN_LATER = frozenset({"HOME", "HOSTNAME", "SHELL", "TERM"})

# A plan is evaluated while the whole node's runtime waits, so what hostile text can ask for is bounded. The
# kernel takes no longer variable (MAX_ARG_STRLEN), and about so much of them together.
_LONGEST_SCRIPT = 64 << 10
_LONGEST_VALUE = 128 << 10
_LONGEST_ENV = 1 << 20
_LONGEST_SEARCH_PATHS = 16 << 10
_MOST_EXPANSIONS = 1000


@dataclass(frozen=True, slots=True)
class NeedsShell:
    """A static environment that cannot be activated statically in this one container; `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class StaticPlan:
    """What activation sets, without a shell: `constants` in every container, `environ` by what it has."""

    constants: tuple[tuple[str, str], ...]
    flox_env: str
    path_suffixes: tuple[str, ...]
    assignments: tuple[tuple[str, Word], ...]
    """Those that depend on the container, in order; they come after the search paths."""
    inputs: tuple[str, ...]
    """The names of a container's env that `environ` looks at: same values, same result."""
    withheld: frozenset[str]
    """The names that must not be set before a shell activates the environment, for it looks at the container's own."""

    @property
    def preset_constants(self) -> tuple[tuple[str, str], ...]:
        """Those of `constants` that `preset` goes with."""
        return tuple((name, value) for name, value in self.constants if name not in self.withheld)

    def preset(self, container_env: Mapping[str, str]) -> dict[str, str]:
        """The variables to set beside `preset_constants` where a shell is to activate the environment.

        They serve commands that pass the shell by, and are such that the activation ends as it would without them.
        """
        paths = self._search_paths(container_env)
        if paths is None:
            return {"PATH": f"{self.flox_env}/bin:{container_env.get('PATH', DEFAULT_PATH)}"}
        environ = self.environ(container_env)
        if isinstance(environ, NeedsShell):
            return paths
        return {name: value for name, value in environ.items() if name not in self.withheld} | paths

    def environ(self, container_env: Mapping[str, str]) -> dict[str, str] | NeedsShell:
        """The variables to set beside `constants`; those that the container has already are left out.

        Where the container's env names a variable twice, the last one counts, as for bash.
        """
        computed = self._search_paths(container_env)
        if computed is None:
            return NeedsShell("the container's search paths are very long")
        try:
            room = _LONGEST_ENV
            for name, word in self.assignments:
                computed[name] = value = _expand(word, computed, container_env)
                room -= len(value)
                if room < 0:
                    raise _UndeterminedError("its variables are too long together")
        except _UndeterminedError as undetermined:
            return NeedsShell(str(undetermined))
        for name, _ in self.constants:
            computed.pop(name, None)
        return {name: value for name, value in computed.items() if container_env.get(name) != value}

    def _search_paths(self, container_env: Mapping[str, str]) -> dict[str, str] | None:
        """What `activate` itself makes of the search paths, before any script; None where they are very long."""
        active = container_env.get("FLOX_ENV_DIRS", "")
        path = container_env.get("PATH", DEFAULT_PATH)
        manpath = container_env.get("MANPATH", "")
        if len(active) + len(path) + len(manpath) > _LONGEST_SEARCH_PATHS:
            return None
        env_dirs = _with_first(self.flox_env, _split(active))
        return {
            "FLOX_ENV_DIRS": ":".join(env_dirs),
            "PATH": _search_path(env_dirs, self.path_suffixes, path),
            "MANPATH": _manual_path(env_dirs, manpath),
        }


@dataclass(frozen=True, slots=True)
class ScriptedPlan:
    """Only a shell can activate this environment; `reason` says to people why.

    `part` is what can be said of it without one, for commands that pass the shell by: see `StaticPlan.preset`.
    """

    reason: str
    part: StaticPlan


def plan(rendered: Rendered, mode: Mode, description: str = "") -> StaticPlan | ScriptedPlan:
    """The plan for an environment, as read by `rendered.read`.

    `description` is what FLOX_ENV_DESCRIPTION shall say, `owner/name`; without it, it is not set.
    """
    reason = ""
    if mode is not Mode.RUN:
        reason = f"mode {mode} runs the profile scripts of the environment's packages"
    elif rendered.has_hook:
        reason = "it has an on-activate hook"
    always = {"FLOX_ENV": str(rendered.path), "FLOX_ENV_CACHE": FLOX_ENV_CACHE}
    if description:
        always["FLOX_ENV_DESCRIPTION"] = description
        always["FLOX_PROMPT_ENVIRONMENTS"] = description.rpartition("/")[2]
    known, dependent = dict(always), list[tuple[str, Word]]()
    for script, text in (("the run-mode paths script", rendered.run_paths), ("envrc", rendered.envrc)):
        try:
            _compile(text, known, dependent)
        except UnsupportedError as unsupported:
            reason = reason or f"{script}, {unsupported}"
            known, dependent = always, []
            break
    static = _static(rendered, known, dependent)
    return ScriptedPlan(reason, static) if reason else static


def _static(rendered: Rendered, known: Mapping[str, str], dependent: Sequence[tuple[str, Word]]) -> StaticPlan:
    return StaticPlan(
        constants=(*known.items(), ("FLOX_ENV_PROJECT", _FLOX_ENV_PROJECT)),
        flox_env=str(rendered.path),
        # Up to 1.14.0; later versions have an option for it instead.
        path_suffixes=("bin", "sbin") if rendered.options and "add-sbin" not in rendered.options else ("bin",),
        assignments=tuple(dependent),
        inputs=tuple(
            sorted(
                _SEARCH_PATHS
                | {name for name, _ in dependent}
                | {name for _, word in dependent for name in _names(word)}
            )
        ),
        withheld=_SEARCH_PATHS | frozenset(_looked_at(dependent)),
    )


def _looked_at(dependent: Sequence[tuple[str, Word]]) -> Iterator[str]:
    """The names whose value in the container's env matters before the scripts set them, if they do at all."""
    assigned = set(_SEARCH_PATHS)
    for name, word in dependent:
        match word:
            # A default for itself: what it sets, it leaves when it meets it again.
            case (Expansion(name=own, operator=":-", word=inner),) if own == name:
                reads = _names(inner)
            case _:
                reads = _names(word)
        yield from (read for read in reads if read not in assigned)
        assigned.add(name)


# The four functions below compute what Flox's `set-env-dirs` and `fix-paths` do.
def _split(paths: str) -> list[str]:
    """The entries of a colon list; Flox writes `empty` where some shells cannot pass on an empty one."""
    return [] if paths in ("", "empty") else paths.split(":")


def _with_first(new: str, dirs: list[str]) -> list[str]:
    return dirs if _same(new) in map(_same, dirs) else [new, *dirs]


def _search_path(env_dirs: list[str], suffixes: tuple[str, ...], path: str) -> str:
    front = [f"{directory}/{suffix}" for directory in env_dirs for suffix in suffixes]
    return ":".join(_without_repeats(front, _split(path)))


def _manual_path(env_dirs: list[str], manpath: str) -> str:
    # An empty entry is where man(1) puts its default path; Flox sees to it that there is one.
    end = "" if manpath.startswith(":") or manpath.endswith(":") or "::" in manpath else ":"
    front = [f"{directory}/share/man" for directory in env_dirs]
    return ":".join(_without_repeats(front, _split(manpath))) + end


def _without_repeats(front: list[str], rest: list[str]) -> Iterator[str]:
    seen = set()
    for entry in (*front, *rest):
        same = _same(entry)
        if not entry or same not in seen:
            seen.add(same)
            yield entry


def _same(path: str) -> str:
    """Equal for paths that Flox takes for the same: doubled and trailing slashes and `.` do not count."""
    if "//" not in path and "/." not in path and not path.endswith("/"):
        return path
    first, *names = path.split("/")
    return "/".join([first, *(name for name in names if name not in ("", "."))]) or "/"


class _UndeterminedError(Exception):
    """Only the running process knows; the text says what."""


def _expand(word: Word, computed: Mapping[str, str], container_env: Mapping[str, str]) -> str:
    text = ""
    for part in word:
        if isinstance(part, str):
            text += part
            continue
        name = part.name
        value = computed.get(name)
        if value is None:
            value = container_env.get(name)
            if not value and name in _FILLED_IN_LATER:
                raise _UndeterminedError(f"{name} is not in the container's env; only its process knows it")
        if part.operator == ":-":
            text += value or _expand(part.word, computed, container_env)
        elif part.operator == ":+":
            text += _expand(part.word, computed, container_env) if value else ""
        elif value is None:
            raise _UndeterminedError(f"{name} is used and not set, which ends the activation")
        else:
            text += value
        if len(text) > _LONGEST_VALUE:
            raise _UndeterminedError("a value is too long")
    return text


def _fold(word: Word, known: Mapping[str, str]) -> Word:
    """`word` with what is known put in; a single literal if all of it is."""
    folded: list[str | Expansion] = []
    room = _LONGEST_VALUE
    for part in word:
        if isinstance(part, str):
            replacement: Word = (part,)
        elif part.name not in known:
            replacement = (Expansion(part.name, part.operator, _fold(part.word, known)),)
        elif part.operator == ":-":
            replacement = (known[part.name],) if known[part.name] else _fold(part.word, known)
        elif part.operator == ":+":
            replacement = _fold(part.word, known) if known[part.name] else ()
        else:
            replacement = (known[part.name],)
        room -= _length(replacement)
        if room < 0:
            raise UnsupportedError("a value is too long")
        for piece in replacement:
            if isinstance(piece, str) and folded and isinstance(before := folded[-1], str):
                folded[-1] = before + piece
            else:
                folded.append(piece)
    return tuple(folded)


def _names(word: Word) -> Iterator[str]:
    for part in word:
        if isinstance(part, Expansion):
            yield part.name
            yield from _names(part.word)


def _length(word: Word) -> int:
    return sum(len(part) if isinstance(part, str) else _length(part.word) for part in word)


def _compile(text: str, known: dict[str, str], dependent: list[tuple[str, Word]]) -> None:
    """Run a script as far as no container is needed; what is left to do for each goes to `dependent`.

    Raises UnsupportedError.
    """
    if len(text) > _LONGEST_SCRIPT:
        raise UnsupportedError("longer than 64 KiB")
    exported: dict[str, bool] = {}
    room = _LONGEST_ENV
    expansions = _MOST_EXPANSIONS
    for statement in parse(text):
        name = statement.name
        if statement.word is None:
            if name not in exported:
                raise UnsupportedError(f"exports {name}, which it does not set")
            exported[name] = True
            continue
        exported[name] = statement.exported
        word = _fold(statement.word, known)
        room -= _length(word)
        expansions -= sum(1 for _ in _names(word))
        if room < 0 or expansions < 0:
            raise UnsupportedError("its variables are too long together")
        known.pop(name, None)
        match word:
            case ():
                known[name] = ""
            case (str(value),):
                known[name] = value
            case _:
                dependent.append((name, word))
    for name, is_exported in exported.items():
        if not is_exported:
            raise UnsupportedError(f"sets {name} without exporting it")
