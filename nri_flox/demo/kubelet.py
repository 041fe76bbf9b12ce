"""What a kubelet leaves on a node for a pod: its volumes. Nothing else of a kubelet is played here."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def secret_volume(
    kubelet_root: Path, pod_uid: str, volume: str, files: Mapping[str, str | bytes], *, projected: bool = False
) -> Path:
    """Lays out a secret volume of the pod, or one that is projected, as the kubelet's atomic writer does, and gives
    its directory: what the kubelet hands to the runtime as a mount's source.

    Each key is a link through `..data`, which is itself replaced when the secret changes; said again for the same
    volume, this does that.
    """
    kind = "kubernetes.io~projected" if projected else "kubernetes.io~secret"
    directory = kubelet_root / "pods" / pod_uid / "volumes" / kind / volume
    payload = directory / f"..{uuid.uuid4().hex}"
    payload.mkdir(parents=True)
    for name, content in files.items():
        (payload / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    data = directory / "..data"
    before = data.resolve() if data.is_symlink() else None
    fresh = directory / "..data_tmp"
    fresh.symlink_to(payload.name)
    os.replace(fresh, data)
    if before is not None:
        shutil.rmtree(before)
    return directory


def forget(kubelet_root: Path, pod_uid: str) -> None:
    """Takes the pod's directory away, as the kubelet does for a pod that is gone."""
    shutil.rmtree(kubelet_root / "pods" / pod_uid, ignore_errors=True)
