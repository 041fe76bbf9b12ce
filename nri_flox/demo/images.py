"""Container images made by hand, as OCI layouts in a tar: what a private node runs without any registry.

An image here is a list of files, at most one layer of them, and the few settings that a Dockerfile would hold.
Importing the tar into a runtime is not done here.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_BUSYBOX_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A pause that ends at once on SIGTERM although it is PID 1, which ignores every signal it has no trap for.
_PAUSE = "trap 'exit 0' TERM INT; sleep 2147483647 & wait"


@dataclass(frozen=True, slots=True)
class Image:
    """`reference` is the full one, with registry and tag; `layer` the uncompressed tar, None for no file at all."""

    reference: str
    layer: bytes | None = None
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = ""

    def config(self) -> bytes:
        """The image's config, as JSON."""
        settings: dict[str, object] = {"Env": [f"{name}={value}" for name, value in self.environment.items()]}
        if self.entrypoint:
            settings["Entrypoint"] = self.entrypoint
        if self.command:
            settings["Cmd"] = self.command
        if self.working_directory:
            settings["WorkingDir"] = self.working_directory
        machine = platform.machine()
        return _json(
            {
                "architecture": _ARCHITECTURES.get(machine, machine),
                "os": "linux",
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [_digest(self.layer)] if self.layer is not None else []},
            }
        )

    def manifest(self) -> bytes:
        """The image's manifest, as JSON."""
        layers = []
        if self.layer is not None:
            layers.append(_descriptor("application/vnd.oci.image.layer.v1.tar", self.layer))
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _descriptor("application/vnd.oci.image.config.v1+json", self.config()),
                "layers": layers,
            }
        )

    @property
    def pinned(self) -> str:
        """The reference by digest instead of by tag."""
        return f"{self.reference.rpartition(':')[0]}@{_digest(self.manifest())}"


def empty() -> Image:
    """`flox/empty:1.0.0`: no file, no setting."""
    return Image("docker.io/flox/empty:1.0.0")


def pause(busybox: Path) -> Image:
    """What holds a pod's namespaces open."""
    return Image(
        "localhost/nri-flox/pause:1",
        _layer({"bin/": 0o755, "bin/sh": busybox}),
        entrypoint=("/bin/sh", "-c", _PAUSE),
    )


def shell(busybox: Path) -> Image:
    """A small distribution: `/bin/sh` and everything else that busybox can be, root and a user `app` (1000)."""
    return Image(
        "docker.io/library/busybox:1",
        _layer(
            {
                "bin/": 0o755,
                "bin/busybox": busybox,
                **{f"bin/{applet}": "busybox" for applet in applets_of(busybox)},
                "etc/": 0o755,
                "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
                "etc/group": b"root:x:0:\napp:x:1000:\n",
                "root/": 0o700,
                "tmp/": 0o1777,
            }
        ),
        command=("/bin/sh",),
        environment={"PATH": _BUSYBOX_PATH, "IMAGE": "busybox"},
    )


def applets_of(busybox: Path) -> list[str]:
    """The other names that busybox answers to."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name != "busybox"]


def write(tar: Path, images: Iterable[Image]) -> None:
    """One OCI layout with all of `images`, each named by its tag and by its digest, as the file `tar`."""
    blobs = {}
    descriptors = []
    for image in images:
        for blob in (image.layer, image.config(), image.manifest()):
            if blob is not None:
                blobs[_digest(blob)] = blob
        for name in (image.reference, image.pinned):
            descriptor = _descriptor("application/vnd.oci.image.manifest.v1+json", image.manifest())
            descriptors.append({**descriptor, "annotations": {"io.containerd.image.name": name}})
    with tarfile.open(tar, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": descriptors}))
        for digest, blob in blobs.items():
            _add(archive, f"blobs/{digest.replace(':', '/')}", blob)


def _layer(files: Mapping[str, int | str | bytes | Path]) -> bytes:
    """A tar of `files`: a number is the mode of a directory, text a link's target, bytes a file's content, and a path
    the program whose copy the file is."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            if isinstance(content, int):
                entry.type, entry.mode = tarfile.DIRTYPE, content
                archive.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            elif isinstance(content, bytes):
                _add(archive, name, content)
            else:
                _add(archive, name, content.read_bytes(), mode=0o755)
    return written.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
