"""Writes a rendered environment into a store directory, in the layout that Flox gives it, without Nix.

For the demo, the tests and the benchmarks: what comes out is what the service meets on a node that has pulled
an environment, links and closure included. The packages are made up, so nothing needs a network. This is no
builder of environments: it resolves nothing, and collisions go to whoever comes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nri_flox.flox.store import StorePath

_BASE_32 = "0123456789abcdfghijklmnpqrsvwxyz"


@dataclass(frozen=True, slots=True)
class Executable:
    """A file that can be run."""

    content: str | bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink, with its target as written."""

    target: str


# What a store path holds: content by relative path. A Link alone is a store path that is itself a symlink.
Entry = str | bytes | Executable | Link
Tree = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Package:
    """A package still to be added to the store."""

    name: str
    files: Tree


def add_path(store_dir: str, name: str, tree: Tree | Link) -> StorePath:
    """Add a store path; its hash follows from name and content, so the same content is the same path."""
    path = _path_of(name, tree)
    _place(store_dir, path, tree)
    return path


def render(
    store_dir: str,
    owner: str,
    name: str,
    *,
    vars: Mapping[str, str] | None = None,  # noqa: A002 - the manifest's word
    packages: Sequence[StorePath | Package] = (),
    hook: str | None = None,
    bash: str = "/usr/bin/env bash",
    extra_paths: int = 0,
    closure: Sequence[StorePath] = (),
    add_sbin: bool = True,
) -> StorePath:
    """Add the environment `owner/name` with its closure; the store path of its run mode is returned.

    `vars` are the manifest's, put into envrc raw as Flox does. `bash` is what runs `activate`. The closure is
    made of `packages` (whose files are linked into the environment), `closure` (which are only part of it),
    Flox's own and `extra_paths` that do nothing. `add_sbin`: `activate` has that option, as from 1.14.1.
    """
    variables = dict(vars or {})
    installed = [
        add_path(store_dir, package.name, package.files) if isinstance(package, Package) else package
        for package in packages
    ]
    cacert = add_path(store_dir, "nss-cacert", {"etc/ssl/certs/ca-bundle.crt": "# no certificates\n"})
    locales = add_path(store_dir, "glibc-locales", {"lib/locale/locale-archive": ""})
    interpreter = add_path(
        store_dir,
        "flox-interpreter",
        {
            "activate": Executable(_activate(bash, add_sbin=add_sbin)),
            "activate.d/helpers.bash": "# nothing is needed here\n",
            "etc/profile.d/0100_common-run-mode-paths.sh": _RUN_PATHS,
        },
    )
    lock = {
        "lockfile-version": 1,
        "manifest": {
            "schema-version": "1.10.0",
            "vars": variables,
            "profile": {"common": f"# {owner}/{name}\n"},
            **({"hook": {"on-activate": hook}} if hook is not None else {}),
        },
        "packages": [{"install_id": path.name[33:], "store_path": str(path)} for path in installed],
    }
    manifest = add_path(
        store_dir,
        "manifest",
        {
            "manifest.lock": json.dumps(lock, indent=2),
            "activate.d/envrc": _envrc(cacert, locales, variables),
            "activate.d/profile-common": f"# {owner}/{name}\n",
            **({"activate.d/hook-on-activate": hook} if hook is not None else {}),
        },
    )
    padding = [add_path(store_dir, f"padding-{number}", {"number": str(number)}) for number in range(extra_paths)]
    parts = [interpreter, manifest, *installed]
    requisites = {cacert, locales, *parts, *closure, *padding}
    tree = _merged(store_dir, [path.name for path in parts])
    environment = _path_of("environment-run", {**tree, "requisites.txt": repr(sorted(requisites))})
    lines = "".join(f"{path}\n" for path in sorted({environment, *requisites}))
    _place(store_dir, environment, {**tree, "requisites.txt": lines})
    return environment


def _path_of(name: str, tree: Tree | Link) -> StorePath:
    content = repr((name, tree if isinstance(tree, Link) else sorted(tree.items())))
    number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:20], "big")
    digest = "".join(_BASE_32[number >> shift & 31] for shift in range(0, 160, 5))
    return StorePath.parse(f"/nix/store/{digest}-{name}")


def _place(store_dir: str, path: StorePath, tree: Tree | Link) -> None:
    final = f"{store_dir}/{path.name}"
    if os.path.lexists(final):
        return
    os.makedirs(store_dir, exist_ok=True)
    if isinstance(tree, Link):
        os.symlink(tree.target, final)
        return
    building = tempfile.mkdtemp(prefix=".building-", dir=store_dir)
    try:
        for relative, entry in tree.items():
            _write(f"{building}/{relative}", entry)
        for directory, _, _ in os.walk(building):
            os.chmod(directory, 0o555)  # noqa: S103 - a store is for everybody to read
        os.rename(building, final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write(path: str, entry: Entry) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if isinstance(entry, Link):
        os.symlink(entry.target, path)
        return
    content = entry.content if isinstance(entry, Executable) else entry
    with open(path, "xb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        os.fchmod(file.fileno(), 0o555 if isinstance(entry, Executable) else 0o444)


def _merged(store_dir: str, providers: list[str], below: str = "") -> dict[str, Entry]:
    """The links of an environment: to a whole directory where one package has it, else into each."""
    links: dict[str, Entry] = {}
    names = sorted({name for path in providers for name in os.listdir(f"{store_dir}/{path}/{below}")})
    for name in names:
        relative = f"{below}/{name}" if below else name
        having = [path for path in providers if os.path.lexists(f"{store_dir}/{path}/{relative}")]
        directories = [path for path in having if os.path.isdir(f"{store_dir}/{path}/{relative}")]
        if len(having) > 1 and directories == having:
            links |= _merged(store_dir, having, relative)
        else:
            links[relative] = Link(f"/nix/store/{having[0]}/{relative}")
    return links


def _envrc(cacert: StorePath, locales: StorePath, variables: Mapping[str, str]) -> str:
    lines = [
        "# Defaults",
        f'export SSL_CERT_FILE="${{SSL_CERT_FILE:-{cacert}/etc/ssl/certs/ca-bundle.crt}}"',
        'export NIX_SSL_CERT_FILE="${NIX_SSL_CERT_FILE:-${SSL_CERT_FILE}}"',
        f'export LOCALE_ARCHIVE="${{LOCALE_ARCHIVE:-{locales}/lib/locale/locale-archive}}"',
        "# The manifest's",
        "BASH_ENVTRACE_RESET=1",
        *(f'export {name}="{value}"' for name, value in variables.items()),
        "unset BASH_ENVTRACE_RESET",
    ]
    return "\n".join(lines) + "\n"


_RUN_PATHS = """\
INFOPATH="$FLOX_ENV/share/info:${INFOPATH:-}"
XDG_DATA_DIRS="$FLOX_ENV/share${XDG_DATA_DIRS:+:$XDG_DATA_DIRS}"
export INFOPATH XDG_DATA_DIRS
"""


def _activate(bash: str, *, add_sbin: bool) -> str:
    """A script that activates as Flox's own does, for run mode and options given one word at a time."""
    option, initial = ("add-sbin,\\\n", "false") if add_sbin else ("", "true")
    return f"""\
#!{bash}
set -euo pipefail
LONGOPTS="env:,\\
env-cache:,\\
env-project:,\\
mode:,\\
{option}skip-hook-on-activate"
_env="" _hook=true _sbin={initial}
unset FLOX_ENV_CACHE FLOX_ENV_PROJECT
while [ $# -gt 0 ]; do
  case "$1" in
    --env) _env="$2"; shift 2 ;;
    --env-cache) export FLOX_ENV_CACHE="$2"; shift 2 ;;
    --env-project) export FLOX_ENV_PROJECT="$2"; shift 2 ;;
    --mode) shift 2 ;;
    --skip-hook-on-activate) _hook=false; shift ;;
    --add-sbin) _sbin=true; shift ;;
    --) shift; break ;;
    *) echo "unknown option $1" >&2; exit 1 ;;
  esac
done
export FLOX_ENV="$_env" FLOX_ENV_DIRS="$_env${{FLOX_ENV_DIRS:+:$FLOX_ENV_DIRS}}"
_front="$_env/bin"
if [ "$_sbin" = true ]; then _front="$_front:$_env/sbin"; fi
export PATH="$_front:$PATH" MANPATH="$_env/share/man:${{MANPATH:-}}"
source "$_env/etc/profile.d/0100_common-run-mode-paths.sh"
if [ -f "$_env/activate.d/envrc" ]; then source "$_env/activate.d/envrc"; fi
if [ "$_hook" = true ] && [ -e "$_env/activate.d/hook-on-activate" ]; then
  set +euo pipefail
  source "$_env/activate.d/hook-on-activate" 1>&2
fi
exec "$@"
"""
