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
    flox: str = "1.14.1",
    output: str = "run",
) -> StorePath:
    """Add the environment `owner/name` with its closure; the store path of its `output` (run, dev) is returned.

    `vars` are the manifest's, put into envrc raw as Flox does. `bash` is what runs `activate`. The closure is
    made of `packages` (whose files are linked into the environment), `closure` (which are only part of it),
    Flox's own and `extra_paths` that do nothing. `activate` has the options of the release `flox`, one of 1.8, 1.9,
    1.12 and 1.14.1.
    """
    variables = dict(vars or {})
    installed = [
        add_path(store_dir, package.name, package.files) if isinstance(package, Package) else package
        for package in packages
    ]
    cacert = add_path(store_dir, "nss-cacert", {"etc/ssl/certs/ca-bundle.crt": "# no certificates\n"})
    locales = add_path(store_dir, "glibc-locales", {"lib/locale/locale-archive": ""})
    scripts = {
        "etc/profile.d/0100_common-run-mode-paths.sh": _RUN_PATHS,
        "etc/profile.d/0101_common-dev-mode-additional-paths.sh": _DEV_PATHS,
    }
    # Flox's interpreter names itself; here a store path's name follows from its content, so it names another.
    profile_d = add_path(store_dir, "flox-profile", scripts)
    interpreter = add_path(
        store_dir,
        "flox-interpreter",
        {
            "activate": Executable(_activate(bash, f"{profile_d}/etc/profile.d", flox)),
            "activate.d/helpers.bash": "# nothing is needed here\n",
            **scripts,
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
    requisites = {cacert, locales, profile_d, *parts, *closure, *padding}
    tree = _merged(store_dir, [path.name for path in parts])
    environment = _path_of(f"environment-{output}", {**tree, "requisites.txt": repr(sorted(requisites))})
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


_DEV_PATHS = """\
CPATH="$FLOX_ENV/include${CPATH:+:$CPATH}"
LIBRARY_PATH="$FLOX_ENV/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
export CPATH LIBRARY_PATH
"""

_RUN_PATHS = """\
INFOPATH="$FLOX_ENV/share/info:${INFOPATH:-}"
XDG_DATA_DIRS="$FLOX_ENV/share${XDG_DATA_DIRS:+:$XDG_DATA_DIRS}"
export INFOPATH XDG_DATA_DIRS
"""


# The long options of Flox's own `activate`, by the release that brought them so.
_OPTIONS = {
    "1.8": "command: shell: env: env-cache: env-project: env-description: mode: watchdog: noprofile",
    "1.9": "command: env: env-cache: env-project: env-description: mode: start-state-dir: skip-hook-on-activate",
    "1.12": "command: env: env-project: mode: start-state-dir: skip-hook-on-activate cuda-detection",
    "1.14.1": "command: env: env-cache: env-project: mode: start-state-dir: skip-hook-on-activate cuda-detection "
    "add-sbin",
}
_BRANCHES = {
    "env:": '[ -d "$2" ] || exit 1; _FLOX_ENV="$2"; shift 2',
    "env-cache:": '[ -d "$2" ] || exit 1; _FLOX_ENV_CACHE="$2"; shift 2',
    "env-project:": '[ -d "$2" ] || exit 1; _FLOX_ENV_PROJECT="$2"; shift 2',
    "env-description:": '_FLOX_ENV_DESCRIPTION="$2"; shift 2',
    "mode:": '_mode="$2"; shift 2',
    "skip-hook-on-activate": "_hook=no; shift",
    "cuda-detection": "_FLOX_ENV_CUDA_DETECTION_V2=1; shift",
    "add-sbin": "_sbin=yes; shift",
}


def _activate(bash: str, profile_d: str, flox: str) -> str:
    """A script that activates for a command as Flox's own of that release does, by bash's builtins alone."""
    options = _OPTIONS[flox].split()
    declared = ",\\\n".join(options)
    branches = "\n".join(f"    --{name.rstrip(':')}) {_BRANCHES[name]} ;;" for name in options if name in _BRANCHES)
    return f"""\
#!{bash}
set -euo pipefail
LONGOPTS="{declared}"
_interpreter_profile_d="{profile_d}"
_sbin={"no" if "add-sbin" in options else "yes"} _mode=dev _hook=yes
while true; do
  case "$1" in
{branches}
    --) shift; break ;;
    *) echo "unrecognized option '$1'" >&2; exit 1 ;;
  esac
done
export FLOX_ENV="$_FLOX_ENV"
for _key in FLOX_ENV_CACHE FLOX_ENV_PROJECT{" FLOX_ENV_DESCRIPTION" if "env-description:" in options else ""}; do
  _private="_$_key"
  if [ -n "${{!_private-}}" ]; then export "$_key=${{!_private}}"; else unset "$_key"; fi
done
# A colon list with the words in front of it, each entry once.
_with_front() {{
  local IFS=: list="$1" seen=: result="" entry
  shift
  for entry in "$@" $list; do
    case "$seen" in *":$entry:"*) continue ;; esac
    seen="$seen$entry:" result="$result${{result:+:}}$entry"
  done
  _joined="$result"
}}
case ":${{FLOX_ENV_DIRS:-}}:" in
  *":$FLOX_ENV:"*) ;;
  *) FLOX_ENV_DIRS="$FLOX_ENV${{FLOX_ENV_DIRS:+:$FLOX_ENV_DIRS}}" ;;
esac
_bin=() _man=()
IFS=: read -r -a _dirs <<<"$FLOX_ENV_DIRS"
for _dir in "${{_dirs[@]}}"; do
  _bin+=("$_dir/bin") _man+=("$_dir/share/man")
  if [ "$_sbin" = yes ]; then _bin+=("$_dir/sbin"); fi
done
_with_front "$PATH" "${{_bin[@]}}"; PATH="$_joined"
_with_front "${{MANPATH:-}}" "${{_man[@]}}"; MANPATH="$_joined:"
export FLOX_ENV_DIRS PATH MANPATH
case "$_mode" in
  dev) for _script in "$_interpreter_profile_d"/*.sh; do source "$_script"; done ;;
  run) source "$_interpreter_profile_d/0100_common-run-mode-paths.sh" ;;
  *) echo "Option --mode requires 'dev' or 'run'." >&2; exit 1 ;;
esac
if [ -f "$FLOX_ENV/activate.d/envrc" ]; then source "$FLOX_ENV/activate.d/envrc"; fi
if [ "$_mode" = dev ]; then
  for _script in "$FLOX_ENV"/etc/profile.d/*.sh; do
    if [ ! -e "$_interpreter_profile_d/${{_script##*/}}" ]; then source "$_script"; fi
  done
fi
if [ "$_hook" = yes ] && [ -e "$FLOX_ENV/activate.d/hook-on-activate" ]; then
  set +euo pipefail
  source "$FLOX_ENV/activate.d/hook-on-activate" 1>&2
  set -euo pipefail
fi
exec "$@"
"""
