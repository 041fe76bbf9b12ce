"""What an activation plan needs to know of a rendered environment, read from the store.

A rendered environment is a store path full of links into its packages. Whoever may push to the environment
decides what most of its files say and where their links lead, so each is opened inside the environment's own
closure, must be a regular file of at most 4 MiB, and is taken for hostile text. Nothing here interprets bash;
see `activation`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nri_flox.flox import beneath
from nri_flox.flox.store import STORE_DIR, Store, StorePath

_LIMIT = 4 << 20

_ENVRC = "activate.d/envrc"
_HOOK = "activate.d/hook-on-activate"
_ACTIVATE = "activate"
_LOCK = "manifest.lock"
_RUN_PATHS = "etc/profile.d/0100_common-run-mode-paths.sh"

# What that script says in current versions; for an environment whose activate script brings it some other way.
_USUAL_RUN_PATHS = """\
export INFOPATH="$FLOX_ENV/share/info:${INFOPATH:-}"
export XDG_DATA_DIRS="$FLOX_ENV/share${XDG_DATA_DIRS:+:$XDG_DATA_DIRS}"
"""

# The `getopt` long options that the activate script declares, over several continued lines.
_LONG_OPTIONS = re.compile(r'^LONGOPTS="([^"]*)"', re.MULTILINE)
# Up to Flox 1.13, and again after 1.14.1, `activate` takes the interpreter's scripts from the interpreter
# itself; 1.14.0 and 1.14.1 take them from the environment, where this finds nothing.
_INTERPRETER = re.compile(
    r'^(?:export )?_(?:interpreter_)?profile_d="(/nix/store/[^/"$]+)/etc/profile\.d"$', re.MULTILINE
)
# JSON, in which no quote inside a string goes without a backslash.
_NO_CUDA = re.compile(r'(?<!\\)"cuda-detection"\s*:\s*false\b')
_SHEBANG = re.compile(r"#![ \t]*([^ \t\n]+)")
# A directory of programs with more than this is no environment's.
_MOST_PROGRAMS = 50_000


class RenderedError(Exception):
    """A rendered environment that cannot be used; the text names the environment's path and the file."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered environment. Bytes that are no UTF-8 are kept as surrogates."""

    path: StorePath
    closure: frozenset[StorePath]
    envrc: str
    """`activate.d/envrc`: the environment's variables as bash; empty where there is none."""
    run_paths: str
    """The interpreter's script that sets the search paths of run mode."""
    has_hook: bool
    options: frozenset[str]
    """Long options of the environment's `activate`, without dashes; they differ by version of Flox. Empty when it
    declares none."""
    interpreter: str
    """The program that `activate` names in its first line; empty when it names none, or there is no `activate`."""
    programs: frozenset[str]
    """The names in `bin` and `sbin`."""
    detects_cuda: bool
    """Whether dev mode looks for CUDA on the system: unless the manifest says otherwise."""


def read(store: Store, path: StorePath, closure: frozenset[StorePath]) -> Rendered:
    """Read the environment at `path`, every file inside `closure`. Raises RenderedError."""
    if not any(_has(store, path, file, closure) for file in (_ACTIVATE, _ENVRC)):
        raise RenderedError(f"{path} has neither {_ACTIVATE} nor {_ENVRC}: it is no rendered Flox environment")
    # A static plan needs nothing that `activate` does, so a missing one is for whoever has to run it.
    activate = _read(store, path, _ACTIVATE, closure)
    interpreter = path
    if found := _INTERPRETER.search(activate):
        try:
            interpreter = StorePath.parse(found[1])
        except ValueError as error:
            raise RenderedError(f"{path}/{_ACTIVATE}: {error}") from None
    return Rendered(
        path=path,
        closure=closure,
        envrc=_read(store, path, _ENVRC, closure),
        run_paths=_read(store, interpreter, _RUN_PATHS, closure, missing=_USUAL_RUN_PATHS),
        has_hook=_has(store, path, _HOOK, closure),
        options=_long_options(activate),
        interpreter=shebang[1] if (shebang := _SHEBANG.match(activate)) else "",
        programs=frozenset(name for below in ("bin", "sbin") for name in _list(store, path, below, closure)),
        detects_cuda=_detects_cuda(store, path, closure),
    )


def _read(store: Store, path: StorePath, file: str, closure: frozenset[StorePath], missing: str = "") -> str:
    names = {member.name for member in closure}
    try:
        content = beneath.read_regular(
            store.directory,
            f"{path.name}/{file}",
            limit=_LIMIT,
            known_as=STORE_DIR,
            admits=names.__contains__,
        )
    except FileNotFoundError:
        return missing
    except (beneath.UnsafeFile, OSError) as error:
        raise RenderedError(f"{path}/{file} cannot be read: {error}") from None
    return content.decode(errors="surrogateescape")


def _list(store: Store, path: StorePath, directory: str, closure: frozenset[StorePath]) -> list[str]:
    names = {member.name for member in closure}
    try:
        return beneath.list_directory(
            store.directory,
            f"{path.name}/{directory}",
            limit=_MOST_PROGRAMS,
            known_as=STORE_DIR,
            admits=names.__contains__,
        )
    except FileNotFoundError:
        return []
    except (beneath.UnsafeFile, OSError) as error:
        raise RenderedError(f"{path}/{directory} cannot be listed: {error}") from None


def _has(store: Store, path: StorePath, file: str, closure: frozenset[StorePath]) -> bool:
    names = {member.name for member in closure}
    try:
        return beneath.is_present(store.directory, f"{path.name}/{file}", known_as=STORE_DIR, admits=names.__contains__)
    except (beneath.UnsafeFile, OSError) as error:
        raise RenderedError(f"{path}/{file} cannot be examined: {error}") from None


def _detects_cuda(store: Store, path: StorePath, closure: frozenset[StorePath]) -> bool:
    try:
        return not _NO_CUDA.search(_read(store, path, _LOCK, closure))
    except RenderedError:
        return True  # as without a manifest; nothing else is read from it


def _long_options(activate: str) -> frozenset[str]:
    declared = _LONG_OPTIONS.search(activate)
    if declared is None:
        return frozenset()
    names = declared[1].replace("\\\n", "").split(",")
    return frozenset(name.rstrip(":") for name in names if name)
