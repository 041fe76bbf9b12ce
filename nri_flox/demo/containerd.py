"""A containerd of one's own: it runs as root from any directory, beside whatever the machine runs, and goes without
a trace, containers, shims and mounts included, even after it was killed.

Getting the programs is `packages`' part; talking to the runtime is `cri`'s.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from nri_flox.demo import cri, images, packages, traces

_CAP_SYS_ADMIN = 21
_CAP_SYS_RESOURCE = 24
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0

# Files of a bundle that hold the address of its shim: up to containerd 1.7, and from 2.0.
_SHIM_ADDRESSES = ("address", "bootstrap.json")

# What both forms of the config share. Nothing may lie outside the directory, so the plugin that makes /opt/containerd
# is off, and no AppArmor profile is loaded; the snapshotters that are off would only complain here.
_COMMON = """\
version = {version}
root = "{directory}/root"
state = "{directory}/state"
temp = "{directory}/temp"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{directory}/containerd.sock"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "{directory}/nri/nri.sock"
  plugin_path = "{directory}/nri/plugins"
  plugin_config_path = "{directory}/nri/conf.d"
  plugin_registration_timeout = "{registration_timeout_ms}ms"
  plugin_request_timeout = "{request_timeout_ms}ms"

[plugins."{cri}"]
  disable_apparmor = true
  restrict_oom_score_adj = {restrict_oom_score_adj}
  {sandbox_image_1_7}

[plugins."{cri}".cni]
  conf_dir = "{directory}/cni/conf.d"

[plugins."{cri}".containerd]
  default_runtime_name = "runc"
  {snapshotter_1_7}
"""

_HANDLER = """
[plugins."{cri}".containerd.runtimes.{handler}]
  runtime_type = "io.containerd.runc.v2"

[plugins."{cri}".containerd.runtimes.{handler}.options]
  BinaryName = "{runc}"
  Root = "{directory}/runc"
"""

_IMAGES_2 = """
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox_image}"
"""


def obstacle() -> str | None:
    """Why no private containerd can run on this machine, whatever programs it has; None if it can."""
    if not _has_capability(_CAP_SYS_ADMIN):
        return "it starts containers and mounts file systems: run it as root, with CAP_SYS_ADMIN"
    return None


class NotStarted(Exception):
    """containerd did not come up, or lacks what it needs; the text holds the end of its log."""


class Containerd:
    """A private containerd below `directory`, which must be empty and have a short path (sockets lie in it).

    `release` is that of `packages.containerd`; the timeouts are NRI's, in seconds. As a context manager it runs
    from start to stop. The handlers `runc` (the default) and `flox` are alike.
    """

    def __init__(
        self,
        directory: Path,
        release: str | None = None,
        *,
        registration_timeout: float = 5.0,
        request_timeout: float = 2.0,
    ) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self.nri_socket = directory / "nri/nri.sock"
        self.nri_plugins = directory / "nri/plugins"
        self.nri_plugin_configs = directory / "nri/conf.d"
        self.log_file = directory / "containerd.log"
        self.cgroup_parent = f"/nri-flox-{hashlib.sha256(bytes(directory)).hexdigest()[:12]}"
        self.cri = cri.Client(self.socket, self.cgroup_parent)
        self._programs = packages.containerd(release)
        self._process: subprocess.Popen[bytes] | None = None
        self._has_images = False
        for place in (self.nri_plugins, self.nri_plugin_configs, directory / "temp"):
            place.mkdir(parents=True)
        self._snapshotter = "overlayfs" if _overlay_works(directory / "temp") else "native"
        self._config = directory / "containerd.toml"
        self._config.write_text(self._configuration(registration_timeout, request_timeout))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """containerd's own process; raises `RuntimeError` while it does not run."""
        if self._process is None:
            raise RuntimeError("this containerd does not run")
        return self._process.pid

    def start(self) -> None:
        """Starts containerd and returns when it serves CRI and holds the images; raises `NotStarted`."""
        # The shim is found through PATH: it has to be the one of this release.
        path = f"{self._programs}:{os.environ.get('PATH', os.defpath)}"
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "containerd", "--config", self._config],
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_it_answers(self._process)
        if not self._has_images:
            self._import_images()
            self._has_images = True

    def kill(self) -> None:
        """As if containerd had crashed: its containers run on."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stops and starts containerd as a service manager would; its containers run on."""
        self._end(signal.SIGTERM)
        self.start()

    def stop(self) -> None:
        """Ends containerd for good, and everything that it started, and takes its mounts and cgroups away.

        Can be said at any time, and again.
        """
        self._end(signal.SIGTERM)
        self.cri.close()
        sockets = self._shim_sockets()
        # The containers before their shims, which are their parents and collect them.
        traces.kill_contained(self.cgroup_parent)
        traces.end_processes(self.directory)
        traces.unmount(self.directory)
        traces.remove_cgroup(self.cgroup_parent)
        for socket in sockets:
            socket.unlink(missing_ok=True)

    def log(self) -> str:
        """Everything that containerd has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def _configuration(self, registration_timeout: float, request_timeout: float) -> str:
        first = packages.version(self._programs / "containerd") < (2, 0)
        sandbox_image = images.pause(packages.busybox()).reference
        values = {
            "version": 2 if first else 3,
            "directory": self.directory,
            "cri": "io.containerd.grpc.v1.cri" if first else "io.containerd.cri.v1.runtime",
            "runc": packages.runc(),
            "registration_timeout_ms": round(registration_timeout * 1000),
            "request_timeout_ms": round(request_timeout * 1000),
            # The sandbox gets a score below ours; that takes a capability which a nested machine may lack.
            "restrict_oom_score_adj": str(not _has_capability(_CAP_SYS_RESOURCE)).lower(),
            "snapshotter": self._snapshotter,
            "sandbox_image": sandbox_image,
            "snapshotter_1_7": f'snapshotter = "{self._snapshotter}"' if first else "",
            "sandbox_image_1_7": f'sandbox_image = "{sandbox_image}"' if first else "",
        }
        parts = [_COMMON.format(**values)]
        parts += [_HANDLER.format(handler=handler, **values) for handler in ("runc", "flox")]
        if not first:
            parts.append(_IMAGES_2.format(**values))
        return "".join(parts)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.cri.version()
            except cri.CriError as error:
                if process.poll() is not None:
                    raise NotStarted(f"containerd has ended ({process.returncode}):\n{self._tail()}") from None
                if time.monotonic() > deadline:
                    raise NotStarted(f"containerd does not answer: {error}\n{self._tail()}") from None
                time.sleep(0.01)
            else:
                return

    def _import_images(self) -> None:
        busybox = packages.busybox()
        wanted = [images.pause(busybox), images.shell(busybox), images.empty()]
        tar = self.directory / "images.tar"
        images.write(tar, wanted)
        ctr = [f"{self._programs}/ctr", "--address", str(self.socket), "--namespace", "k8s.io"]
        # By ctr itself: containerd's own transfer service would unpack for its default snapshotter only.
        command = [*ctr, "images", "import", "--local", "--snapshotter", self._snapshotter, str(tar)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotStarted(f"the images cannot be imported: {done.stderr.strip()}\n{self._tail()}")
        tar.unlink()
        # CRI learns of the images by events, a moment later.
        deadline = time.monotonic() + _START_SECONDS
        names = {name for image in wanted for name in (image.reference, image.pinned)}
        while missing := names - self.cri.images():
            if time.monotonic() > deadline:
                raise NotStarted(f"CRI does not see the images {missing}:\n{self._tail()}")
            time.sleep(0.005)

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-15:])

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # NRI plugins that containerd has launched are of its session.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _shim_sockets(self) -> list[Path]:
        """They lie outside the directory; a bundle says where."""
        bundles = self.directory / "state/io.containerd.runtime.v2.task"
        texts = [file.read_text() for name in _SHIM_ADDRESSES for file in bundles.glob(f"*/*/{name}")]
        return [Path(found) for text in texts for found in re.findall(r'unix://([^"\s]+)', text)]


def _overlay_works(directory: Path) -> bool:
    """Whether an overlay can be mounted on files below `directory`; not if that is an overlay itself, say."""
    lower, upper, work, merged = (directory / name for name in ("lower", "upper", "work", "merged"))
    for place in (lower, upper, work, merged):
        place.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount = ["mount", "-t", "overlay", "-o", options, "overlay", str(merged)]
    works = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if works:
        subprocess.run(["umount", merged], capture_output=True, check=True)
    return works


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)
