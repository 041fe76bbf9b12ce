"""Looking at this node: each function looks at one thing and says what it found, with the remedy.

Nothing is changed: what a probe makes to try something out is gone when it returns.
"""

import errno
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from nri_flox.cli.findings import Finding, fault, ok, warning
from nri_flox.config import Config, Environments, Nix, Source
from nri_flox.environments.command import identity
from nri_flox.nri.capabilities import Capabilities

CLI_TIMEOUT = 15.0  # seconds
OLDEST_CONTAINERD = (1, 7)

_ENABLE_NRI = (
    'set disable = false under [plugins."io.containerd.nri.v1.nri"] in containerd\'s config, and restart containerd'
)


def nri_socket(path: str) -> Finding:
    """Whether the runtime listens for plugins."""
    try:
        with socket.socket(socket.AF_UNIX) as plugin:
            plugin.settimeout(3)
            plugin.connect(path)
    except FileNotFoundError:
        return fault("nri", f"there is no socket {path}", f"{_ENABLE_NRI}; or set nri.socket_path")
    except PermissionError:
        return fault("nri", f"{path} may not be opened", "run this as root")
    except OSError as error:
        return fault(
            "nri", f"nobody listens at {path} ({error})", "start the container runtime, or set nri.socket_path"
        )
    return ok("nri", f"the runtime listens at {path}")


def containerd(path: str) -> Iterator[Finding]:
    """Which containerd this is, and whether it can serve plugins."""
    if not os.path.exists(path):
        yield warning("containerd", f"there is no socket {path}", "name containerd's with --containerd-socket")
        return
    # Heavy, and needed only here.
    from nri_flox.cli.containerd import ask

    try:
        found = ask(path)
    except OSError as error:
        yield warning("containerd", str(error), "start containerd, or name its socket with --containerd-socket")
        return
    yield containerd_version(found.version)
    if not found.has_nri:
        yield fault("containerd", "its NRI plugin is switched off", "take it out of disabled_plugins in its config")
    elif found.nri_failure:
        yield fault("containerd", f"its NRI plugin did not start: {found.nri_failure}", "see containerd's log")


def containerd_version(version: str) -> Finding:
    """Whether that release of containerd is supported."""
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None:
        return warning("containerd", f"has the version {version!r}, which says nothing", "use a released containerd")
    if (int(numbers[1]), int(numbers[2])) < OLDEST_CONTAINERD:
        return fault("containerd", f"{version} is too old", "update it to 1.7 or later")
    capabilities = Capabilities.of("containerd", version)
    return ok("containerd", f"{version}, NRI {'.'.join(map(str, capabilities.nri))}")


@dataclass(frozen=True, slots=True)
class Traces:
    """Files that show that something untested is in use here."""

    crio: str = "/var/run/crio/crio.sock"
    selinux: str = "/sys/fs/selinux/enforce"
    sandboxed: tuple[str, ...] = ("containerd-shim-runsc-v1", "containerd-shim-kata-v2", "kata-runtime")


def untested(traces: Traces) -> Iterator[Finding]:
    """What is in use here that nobody has tried with nri-flox yet."""
    if os.path.exists(traces.crio):
        yield warning("cri-o", "runs here, and is untested", "use containerd where you rely on this")
    if _first_character(traces.selinux) == "1":
        yield warning("selinux", "is enforcing, which is untested", "look for denials in the audit log")
    for program in traces.sandboxed:
        if shutil.which(program):
            yield warning(
                "sandbox",
                f"{program} is installed, and sandboxed runtimes are untested",
                "name environments only in pods that run under runc or crun",
            )


def _first_character(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1)
    except OSError:
        return ""


def flox_cli(executable: str, path: str) -> Finding:
    """Whether the Flox CLI is on `path` (as in PATH) and runs."""
    found = shutil.which(executable, path=path)
    if found is None:
        where = executable if "/" in executable else f"{executable!r} on PATH ({path})"
        return fault("flox", f"there is no program {where}", "install the Flox CLI, or set flox.executable")
    with tempfile.TemporaryDirectory(prefix="nri-flox-check-") as home:
        try:
            run = subprocess.run(
                [found, "--version"],
                env={"PATH": path, "HOME": home, "FLOX_DISABLE_METRICS": "true"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CLI_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return fault("flox", f"{found} --version took over {CLI_TIMEOUT:.0f} s", "see what keeps it")
        except OSError as error:
            return fault("flox", f"{found} can't be run: {error.strerror}", "reinstall the Flox CLI")
    said = (run.stdout or run.stderr).decode(errors="replace").strip().partition("\n")[0][:200]
    if run.returncode != 0:
        return fault("flox", f"{found} --version failed: {said}", "reinstall the Flox CLI")
    version = said.removeprefix("flox ")
    if not re.match(r"\d+\.\d+\.\d+\b", version):
        remedy = "install the Flox CLI, or set flox.executable"
        return fault("flox", f"{found} --version says {said!r}, which is no version of Flox", remedy)
    return ok("flox", f"{found}, version {version}")


def flox_user(name: str) -> Iterator[Finding]:
    """Whether this node has the user that is to run the CLI; nothing is said where that is the service's own."""
    if not name:
        return
    try:
        identity(name)
    except OSError as error:
        yield fault("flox", str(error), "add the user to the node, or set flox.user")


def store(nix: Nix) -> Finding:
    """Whether there is a store that can be read."""
    try:
        with os.scandir(nix.store_dir) as entries:
            any(entries)
    except OSError as error:
        return fault(
            "store", f"{nix.store_dir} can't be read: {error.strerror}", "install Nix or Flox, or set nix.store_dir"
        )
    return ok("store", nix.store_dir)


def database(nix: Nix, sources: tuple[Source, ...]) -> Finding:
    """Whether Nix's database can be read. The directory source alone can do without one."""
    import sqlite3

    path = os.path.join(nix.state_dir, "db", "db.sqlite")
    remedy = "install Nix or Flox, or set nix.state_dir"
    if not os.path.exists(path):
        if Source.FLOXHUB in sources:
            return fault("database", f"there is no {path}", remedy)
        return warning("database", f"there is no {path}, so environments need a requisites.txt", remedy)
    try:
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=3)
        try:
            connection.execute("SELECT path FROM ValidPaths JOIN Refs ON id = referrer LIMIT 1").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return fault("database", f"{path} can't be read: {error}", "see that it is Nix's, and that root can read it")
    return ok("database", path)


def view_directory(nix: Nix) -> Finding:
    """Whether what containers mount can be laid out: by hard links, so on the store's file system."""
    parent = existing(nix.view_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=".check-", dir=parent) as trial:
            sample = _regular_file(nix.store_dir)
            if sample is not None:
                os.link(sample, os.path.join(trial, "sample"), follow_symlinks=False)
            elif os.stat(trial).st_dev != os.stat(nix.store_dir).st_dev:
                return _across(nix)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return _across(nix)
        return fault("views", f"{nix.view_dir} can't be used: {error}", "run this as root, or set nix.view_dir")
    return ok("views", nix.view_dir)


def _across(nix: Nix) -> Finding:
    return fault(
        "views",
        f"{nix.view_dir} is on another file system than {nix.store_dir}, or a bind mount lies between",
        "set nix.view_dir to a directory on the store's own file system and mount",
    )


def _regular_file(directory: str) -> str | None:
    """Some regular file below `directory`; the first thousand entries will do."""
    pending, seen = [directory], 0
    while pending and seen < 1000:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                seen += 1
                if entry.is_file(follow_symlinks=False):
                    return entry.path
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                if seen >= 1000:
                    break
    return None


def state_directory(path: str) -> Finding:
    """Whether the service can keep its state."""
    parent = existing(path)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        return fault("state", f"{path} can't be written", "run this as root, or set environments.state_dir")
    return ok("state", path)


def environment_directory(path: str) -> Finding:
    """Whether the `directory` source has anything to offer."""
    try:
        owners = sum(entry.is_dir() for entry in os.scandir(path))
    except OSError as error:
        return fault("directory", f"{path} can't be read: {error.strerror}", "make it, or set environments.directory")
    if not owners:
        return warning("directory", f"{path} is empty", "link environments to <owner>/<name>/live in it")
    return ok("directory", f"{path}, environments of {owners} owner{'s' * (owners != 1)}")


def space(store_dir: str, limits: Environments) -> Iterator[Finding]:
    """Whether there is room for more environments: bytes and inodes."""
    try:
        status = os.statvfs(store_dir)
    except OSError:
        return  # `store` has said so already
    for what, total, free in (
        ("bytes", status.f_blocks, status.f_bavail),
        ("inodes", status.f_files, status.f_favail),
    ):
        if total:  # some file systems don't count inodes
            yield store_share_free(what, free / total, limits)


def store_share_free(what: str, share: float, limits: Environments) -> Finding:
    """What it means that this share of the store's file system is free."""
    text = f"{share:.0%} of the store's {what} are free"
    if 1 - share > limits.gc_above:
        return warning("space", f"{text}, and no environment leaves the node by itself yet", "free some")
    return ok("space", text)


def layer_space(limits: Environments) -> Iterator[Finding]:
    """Whether there is room for what containers write to their own /nix, which lies below the state directory."""
    try:
        status = os.statvfs(existing(limits.state_dir))
    except OSError:
        return  # `state_directory` has said so already
    if status.f_blocks:
        yield from state_share_free(status.f_bavail / status.f_blocks, limits)


def state_share_free(share: float, limits: Environments) -> Iterator[Finding]:
    """What it means that this share of the state directory's file system is free; nothing where it is enough."""
    if share < limits.min_free:
        yield warning(
            "space",
            f"{share:.0%} of the bytes at {limits.state_dir} are free, so pods that ask for a writable /nix wait",
            "free some, or lower environments.min_free",
        )


def existing(path: str) -> str:
    """`path`, or its nearest ancestor that is there."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def everything(config: Config, containerd_path: str, cli_path: str) -> Iterator[Finding]:
    """All that matters on this node under `config`; `cli_path` is the PATH on which the service finds the CLI."""
    yield nri_socket(config.nri.socket_path)
    yield from containerd(containerd_path)
    yield from untested(Traces())
    if Source.FLOXHUB in config.environments.source:
        yield flox_cli(config.flox.executable, dict(config.flox.environment).get("PATH", cli_path))
        yield from flox_user(config.flox.user)
    if Source.DIRECTORY in config.environments.source:
        yield environment_directory(config.environments.directory)
    yield store(config.nix)
    yield database(config.nix, config.environments.source)
    yield view_directory(config.nix)
    yield state_directory(config.environments.state_dir)
    yield from space(config.nix.store_dir, config.environments)
    yield from layer_space(config.environments)
