"""What a container gets whose image holds nothing: a place for temporary files, accounts, and the programs that scripts
ask for by an absolute path.

Nothing of it goes over what the pod mounts itself, and nothing into it either: a mount point below a volume of the pod
would be made in that volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from nri_flox.adjust import texts
from nri_flox.adjust.decision import Accounts, Adjust, NotReady
from nri_flox.adjust.mounts import place, read_only, scratch
from nri_flox.config import Config
from nri_flox.flox.accounts import User
from nri_flox.flox.annotations import listed
from nri_flox.nri.nri_pb2 import Container

# Under this, containerd says which image a container has (facts of its versions are in docs/scaffold-and-mutable.md).
IMAGE_NAME = "io.kubernetes.cri.image-name"

# Linux gives a process no more groups than would fit here; what names a directory must not get longer.
_MAX_GIDS = 16

_TMP = "/tmp"  # noqa: S108 - the container's
_PLACES = (_TMP, "/etc/passwd", "/etc/group")


class Known(Protocol):
    """What the node knows, read without waiting."""

    def accounts(self, user: User | None) -> str | None:
        """The directory with the account files for containers that run as `user`, if they are written."""


def furnished(decision: Adjust, container: Container, known: Known, config: Config) -> Adjust | NotReady:
    """The decision, with a scaffold where the container's image is one of `activation.scaffold_images`."""
    if not needs_accounts(container, config):
        return decision
    user = user_of(container)
    accounts = known.accounts(user)
    if accounts is None:
        text = "is here, and the accounts of its user are being written; the container is created when they are"
        return NotReady(texts.environment(container.name, decision.want.reference, text), Accounts(user))
    taken = {place(mount.destination) for mount in container.mounts}
    wanted = (*_PLACES, *(at for at, _ in decision.environment.programs))
    return _with_scaffold(decision, accounts, tuple(at for at in wanted if _is_free(at, taken)))


@lru_cache(maxsize=256)
def _with_scaffold(decision: Adjust, accounts: str, places: tuple[str, ...]) -> Adjust:
    """Containers that are alike share the outcome, as they share the decision."""
    view = decision.environment.view
    files = {
        "/etc/passwd": f"{accounts}/passwd",
        "/etc/group": f"{accounts}/group",
        **{at: f"{view}/{file}" for at, file in decision.environment.programs},
    }
    mounts = [scratch(at) if at == _TMP else read_only(files[at], at) for at in places]
    return replace(decision, mounts=(*decision.mounts, *mounts))


def needs_accounts(container: Container, config: Config) -> bool:
    """Whether the container's image has none, so that those of its user have to be there."""
    return is_bare(container.annotations.get(IMAGE_NAME, ""), config.activation.scaffold_images)


def user_of(container: Container) -> User | None:
    """Whom the container runs as; None on runtimes before NRI 0.11, which don't tell."""
    if not container.HasField("user"):
        return None
    user = container.user
    return User(user.uid, user.gid, tuple(user.additional_gids[:_MAX_GIDS]))


@lru_cache(maxsize=1024)
def is_bare(image: str, patterns: tuple[str, ...]) -> bool:
    """Whether `image` is one of `patterns`, whatever registry it comes from, and whatever its tag or digest is.

    `image` is a reference as people write it, or as a runtime completes it. Patterns may name a tag, too.
    """
    tagged = image.partition("@")[0]
    # A colon before the last slash is that of a registry's port.
    path, slash, last = tagged.rpartition("/")
    untagged = path + slash + last.partition(":")[0]
    return any(listed(ending, patterns) for name in (untagged, tagged) for ending in _endings(name))


def _endings(name: str) -> Iterable[str]:
    """`a/b/c`, `b/c`, `c`."""
    parts = name.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _is_free(place: str, taken: Iterable[str]) -> bool:
    """Whether nothing is mounted at, above or below `place`."""
    below = place + "/"
    return not any(
        other == place or other.startswith(below) or below.startswith(other.rstrip("/") + "/") for other in taken
    )
