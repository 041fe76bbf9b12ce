"""What can become of a container, as values.

A decision says what to do and, where that isn't an adjustment, why; `Need` says what would have to be fetched before a
container that isn't ready can be decided on again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nri_flox.flox.accounts import User
from nri_flox.flox.annotations import Absent
from nri_flox.flox.environment import Environment, Layer, Want
from nri_flox.flox.token import Lent
from nri_flox.nri.nri_pb2 import Mount


@dataclass(frozen=True, slots=True)
class Untouched:
    """No environment is named for the container."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An environment is named, but the container is to be left alone."""

    reason: Absent


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell in the container activates the environment, by the scripts in the node's directory `scripts`.

    `args` is the container's command rewritten, empty where it stays. `stand_in` names the script that stands at the
    front of PATH for a command of the name `command`, if any does. `outside`: what is run by exec has no environment.
    """

    scripts: str
    command: str
    args: tuple[str, ...]
    stand_in: str | None
    outside: bool


@dataclass(frozen=True, slots=True, eq=False)
class Adjust:
    """The container runs in `environment`; `environ` is what its env gets beyond the environment's constants.

    Without `shell` the env is all that the activation does. `mounts` are those that not all containers of the
    environment get; the store is among them where this one has a `layer` to write to. Compared by identity: containers
    that are alike share one, and with it the bytes that say it.
    """

    want: Want
    environment: Environment
    environ: Mapping[str, str]
    shell: Shell | None = None
    mounts: tuple[Mount, ...] = ()
    layer: Layer | None = None


@dataclass(frozen=True, slots=True)
class PodTokens:
    """The tokens in the pod's volumes have to be read."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """`want` has to be realised, by a check that begins at `not_before` (monotonic seconds) or later.

    With `local` only this node is looked at. `metrics` is whether the pod allows Flox its metrics.
    """

    want: Want
    lent: Lent | None
    not_before: float
    local: bool
    metrics: bool


@dataclass(frozen=True, slots=True)
class Accounts:
    """The account files for a container that runs as `user` have to be written; None: nobody knows as whom."""

    user: User | None


@dataclass(frozen=True, slots=True)
class WritableLayer:
    """A layer for a container in `environment` has to be made."""

    environment: Environment


Need = PodTokens | Fetch | Accounts | WritableLayer


@dataclass(frozen=True, slots=True)
class NotReady:
    """The container can't be created now, but trying again may do; `need` is what to fetch for that, if anything."""

    text: str
    need: Need | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The container can't be created until somebody changes something."""

    text: str


Decision = Untouched | Skipped | Adjust | NotReady | Refused
