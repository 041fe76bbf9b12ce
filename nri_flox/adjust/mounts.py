"""Mounts as an adjustment has them, and where a mount of the pod's own lies."""

from __future__ import annotations

import posixpath

from nri_flox.nri.nri_pb2 import Mount


def read_only(source: str, destination: str) -> Mount:
    """What lies on the node at `source`, for the container to read."""
    return Mount(
        destination=destination, type="bind", source=source, options=["bind", "ro", "nosuid", "nodev", "rprivate"]
    )


def scratch(destination: str, *options: str) -> Mount:
    """A directory of the container's own, which its user can write whoever it is, and gone with it."""
    return Mount(
        destination=destination, type="tmpfs", source="tmpfs", options=["mode=1777", "nosuid", "nodev", *options]
    )


def place(destination: str) -> str:
    """Where a mount's `destination` is in the container, however the pod wrote it."""
    return posixpath.normpath("/" + destination.lstrip("/"))
