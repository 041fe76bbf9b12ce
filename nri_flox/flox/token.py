"""The FloxHub token that a pod lends: where it lies on the node, how it is read, and which container uses which.

Kubernetes mounts a secret as a directory of the pod's own below the kubelet's root. Only there is a token read, and
only as a small regular file; what a pod can put into such a volume is not trusted. Reading touches the disk and
belongs to a worker; `choose` is pure and belongs to the decision.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nri_flox.flox.beneath import UnsafeFile, read_regular
from nri_flox.flox.wording import clean

MAX_TOKEN = 64 * 1024  # bytes
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KINDS = ("kubernetes.io~secret", "kubernetes.io~projected")


class Token:
    """A secret. It has no text form, so that it can't end up in one; `reveal` is for the Flox CLI's env alone."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Token(…)"


@dataclass(frozen=True, slots=True)
class Lent:
    """A token that a pod lends; `credential` is a keyed hash that stands for it, `origin` says where it was read."""

    credential: str
    token: Token
    origin: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """A token file that can't be used, and why."""

    origin: str
    reason: str


# Of a pod, by the name of each secret or projected volume that it has; None for one without a token file.
Tokens = Mapping[str, Lent | Unusable | None]


class NoToken(ValueError):
    """The token of a volume can't be used; the text says why."""


def read_token(volume: str, file: str) -> Token:
    """The token in `file` of the volume directory `volume`.

    Raises FileNotFoundError when there is none, NoToken when what is there is no token. Never blocks: anything but a
    regular file within the volume is refused before it is opened for reading.
    """
    try:
        data = read_regular(volume, file, limit=MAX_TOKEN)
    except UnsafeFile as error:
        raise NoToken(str(error)) from None
    try:
        value = data.decode()
    except UnicodeDecodeError:
        raise NoToken("it is not text") from None
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise NoToken("it is empty")
    if _CONTROL.search(value):
        raise NoToken("it holds control characters")
    return Token(value)


def volumes(kubelet_root: str, pod_uid: str) -> dict[str, str]:
    """The pod's secret and projected volumes on disk: name to directory. Empty when the pod has no directory."""
    found: dict[str, str] = {}
    if not _is_component(pod_uid):
        return found
    for kind in _KINDS:
        parent = posixpath.join(kubelet_root, "pods", pod_uid, "volumes", kind)
        try:
            with os.scandir(parent) as entries:
                found.update((entry.name, entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


@dataclass(frozen=True, slots=True)
class TokenMount:
    """Where containers mount their token: `token.mount_path`, `token.file` and `token.kubelet_root`."""

    mount_path: str
    file: str
    kubelet_root: str

    def volume(self, pod_uid: str, mounts: Iterable[tuple[str, str]]) -> str | None:
        """The name of the pod's volume that a container mounts for its token, whole or its file by subPath.

        `mounts` are pairs of destination in the container and source on the node. A source that is not a volume of
        this very pod's is no token mount.
        """
        pod = posixpath.join(self.kubelet_root, "pods", pod_uid)
        places, leaf = (
            (self.mount_path, posixpath.join(self.mount_path, self.file)),
            posixpath.basename(self.mount_path),
        )
        for destination, source in mounts:
            # Most mounts are something else, and this is asked for each of them while the runtime waits.
            if leaf not in destination or posixpath.normpath(destination) not in places:
                continue
            path = posixpath.normpath(source)
            if not _is_component(pod_uid) or not path.startswith(pod + "/"):
                continue
            match path.removeprefix(pod + "/").split("/"):
                case ["volumes", kind, volume] if kind in _KINDS:
                    return volume
                case ["volume-subpaths", volume, _container, _index]:
                    # The kubelet binds the file itself there; which kind of volume it comes from is known by name.
                    return volume
        return None


def choose(tokens: Tokens, volume: str | None) -> Lent | Unusable | None:
    """The token that a container uses: of the volume that it mounts for it, else the only one that its pod has.

    A `volume` that is no secret or projected one is not among `tokens`, and is ignored.
    """
    if volume is not None and volume in tokens:
        return tokens[volume]
    lent = [token for token in tokens.values() if token is not None]
    return lent[0] if len(lent) == 1 else None


def origin(volume: str, file: str) -> str:
    return f'file "{clean(file, 60)}" of volume "{clean(volume, 60)}"'


def _is_component(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name
