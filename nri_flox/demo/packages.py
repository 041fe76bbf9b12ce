"""Gets the programs of a private node: containerd with its runc shim and ctr, runc, busybox, bash.

They are packages of the machine's own distribution (or of another suite in the same archive), or built from their
Go module, and are unpacked into a cache directory: nothing is installed, and apt's own state stays as it is. Running
them is not done here.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

OLDEST = (1, 7)
"""The oldest containerd that nri-flox supports."""

_SUITES = {"1.7": "trixie", "2.1": "sid"}
"""Debian's suites, by the containerd release that they hold."""

_MODULES = {"2.1": "v2.1.9", "2.2": "v2.2.9", "2.3": "v2.3.7"}
"""Versions of containerd's Go module, by release."""

_MODULE = "github.com/containerd/containerd/v2"
_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
_GO = ("golang-1.24-go", "golang-1.24-src")
_TOOLS = ("runc", "busybox-static", "bash-static")

# File systems that no private node uses; without them the build needs no C library.
_BUILD_TAGS = "no_btrfs,no_devmapper,no_zfs"

# A private apt: own sources, lists and cache, and none of the machine's pins and hooks. Proxies and the like still
# come from the machine's apt.conf.d, which apt reads before this file.
_APT_CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Default-Release "";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Cache "{directory}/cache";
Dir::State "{directory}/state";
Dir::State::status "{directory}/status";
Dir::Etc::SourceList "{directory}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
"""


class Unavailable(Exception):
    """A program could not be had on this machine; the text says why."""


def cache_directory() -> Path:
    """Where unpacked programs stay: `$NRI_FLOX_CACHE`, else `nri-flox` in the user's cache directory."""
    if own := os.environ.get("NRI_FLOX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nri-flox"


def containerd(release: str | None = None) -> Path:
    """The directory that holds `containerd`, `containerd-shim-runc-v2` and `ctr` of `release` ("1.7", "2.3").

    Without a release: what is installed if that is new enough, else the distribution's if that is, else 1.7.
    The first call may download some 40 MB or build for minutes; raises `Unavailable`.
    """
    if release is None:
        installed = shutil.which("containerd")
        if installed and all(map(shutil.which, _PROGRAMS)) and version(Path(installed)) >= OLDEST:
            return Path(installed).parent
        release = "1.7" if _distribution()["ID"] == "debian" else "any"
    return _kept(f"containerd-{release}", lambda made: _get_containerd(release, made)) / "usr/bin"


def runc() -> Path:
    """The installed runc, else the distribution's own, unpacked. Raises `Unavailable`."""
    installed = shutil.which("runc")
    return Path(installed) if installed else _tool("runc")


def busybox() -> Path:
    """A busybox that needs no library. Raises `Unavailable`."""
    return _tool("busybox")


def bash() -> Path:
    """A bash that needs no library. Raises `Unavailable`."""
    return _tool("bash-static")


def go() -> Mapping[str, str]:
    """An env in which `go` builds any module: the installed one, else Debian's of trixie. Raises `Unavailable`.

    From 1.21 on, Go fetches the newer toolchain that a module asks for; distributions switch that off.
    """
    environment = {**os.environ, "GOTOOLCHAIN": "auto"}
    installed = shutil.which("go")
    if installed and version(Path(installed), "version") >= (1, 21):
        return environment
    if _distribution()["ID"] != "debian":
        raise Unavailable("there is no go 1.21 or later on PATH")
    kept = _kept("go", lambda made: _unpack(_GO, made, "trixie"))
    root = next((kept / "usr/lib").glob("go-*"))
    return {**environment, "GOROOT": str(root), "PATH": f"{root}/bin:{os.environ['PATH']}"}


def version(program: Path, option: str = "--version") -> tuple[int, ...]:
    """Major and minor version that a program says of itself; (0,) if it says nothing of the kind."""
    said = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\s(?:v|go)?(\d+)\.(\d+)\b", said)
    return tuple(map(int, found.groups())) if found else (0,)


def _tool(name: str) -> Path:
    kept = _kept("tools", lambda made: _unpack(_TOOLS, made))
    # Where a package puts a program depends on whether the distribution has merged /bin and /sbin into /usr.
    for place in ("usr/bin", "usr/sbin", "bin", "sbin"):
        if (kept / place / name).is_file():
            return kept / place / name
    raise Unavailable(f"the distribution's package holds no {name} (looked in {kept})")


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache, filled by `make` if it is not there: whole or not at all, and once even
    when several processes ask at the same time."""
    cache = cache_directory()
    kept = cache / name
    if kept.is_dir():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch:
                made = Path(scratch) / name
                made.mkdir()
                make(made)
                made.rename(kept)
    return kept


def _get_containerd(release: str, made: Path) -> None:
    """Fills `made` with a package that has `release`, where a suite should have one, else with a build."""
    if release in _SUITES or release not in _MODULES:
        suite = _SUITES.get(release) if _distribution()["ID"] == "debian" else None
        try:
            _unpack(["containerd"], made, suite)
            found = version(made / "usr/bin/containerd")
            if found < OLDEST or (release != "any" and ".".join(map(str, found)) != release):
                has = ".".join(map(str, found))
                wanted = "1.7 or later" if release == "any" else release
                raise Unavailable(f"{suite or 'the distribution'} has containerd {has}, which is not {wanted}")
        except Unavailable:
            if release not in _MODULES:
                raise
            shutil.rmtree(made / "usr", ignore_errors=True)
        else:
            return
    _build(_MODULES[release], made / "usr/bin")


def _unpack(packages: Iterable[str], made: Path, suite: str | None = None) -> None:
    """Unpacks the candidates of `packages`, from the distribution's own suites or from `suite`, into `made`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable("this is no Debian or Ubuntu: there is no apt-get or dpkg-deb on PATH")
    with tempfile.TemporaryDirectory(prefix="nri-flox-apt-") as scratch:
        directory = Path(scratch)
        environment = _private_apt(directory, _sources(suite))
        updated = _try(["apt-get", "-qq", "update"], environment)
        downloaded = _try(["apt-get", "-qq", "download", *packages], environment, directory / "cache")
        # Other people's archives fail at the update, since they are not signed by the distribution: no harm done.
        if downloaded.returncode != 0:
            raise Unavailable(f"apt-get failed: {_last_lines(updated)}; {_last_lines(downloaded)}")
        for package in sorted((directory / "cache").glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(made)], environment)


def _private_apt(directory: Path, sources: str) -> Mapping[str, str]:
    """Lays out an apt of its own below `directory`; gives the environment in which apt-get uses it."""
    (directory / "state/lists/partial").mkdir(parents=True)
    (directory / "cache/archives/partial").mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(sources)
    config = directory / "apt.conf"
    config.write_text(_APT_CONFIG.format(directory=directory))
    return {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}


def _sources(suite: str | None) -> str:
    """A sources.list with the machine's own archive addresses, for its own suites or for `suite`."""
    distribution = _distribution()
    own = distribution.get("VERSION_CODENAME", "")
    # Security updates and the like lie at other addresses, which have no other suite than their own.
    suites = {own: own, f"{own}-updates": f"{own}-updates", f"{own}-security": f"{own}-security"}
    if suite is not None:
        suites = {own: suite}
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    asked = _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], os.environ)
    entries = [entry for line in asked.splitlines() if len(entry := line.split()) == 3 and entry[1] in suites]
    if not entries:
        raise Unavailable(f"apt has no source for {own or 'this distribution'}")
    keyring = Path(f"/usr/share/keyrings/{distribution['ID']}-archive-keyring.gpg")
    # Without it, apt falls back to the keys that it trusts for all sources.
    options = f"[signed-by={keyring}] " if keyring.exists() else ""
    lines = [f"deb {options}{uri} {suites[release]} {component}\n" for uri, release, component in entries]
    return "".join(dict.fromkeys(lines))


def _distribution() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError as error:
        raise Unavailable(f"the distribution cannot be told: {error}") from None


def _build(module_version: str, into: Path) -> None:
    """Builds containerd's programs from their Go module; takes minutes on a small machine."""
    environment = go()
    into.mkdir(parents=True)
    commands = [f"{_MODULE}/cmd/{program}@{module_version}" for program in _PROGRAMS]
    build = ["go", "install", "-trimpath", "-buildvcs=false", "-tags", _BUILD_TAGS, *commands]
    _run(build, {**environment, "GOBIN": str(into), "CGO_ENABLED": "0"})


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    done = _try(command, environment)
    if done.returncode != 0:
        raise Unavailable(f"`{' '.join(command[:2])}` failed: {_last_lines(done)}")
    return done.stdout


def _try(
    command: list[str], environment: Mapping[str, str], directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    nothing = subprocess.DEVNULL
    return subprocess.run(
        command, env=environment, cwd=directory, stdin=nothing, capture_output=True, text=True, check=False
    )


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
