"""An environment on this node, and what is known of one that isn't yet.

These are the values that the catalogue holds and the decision reads. Each is immutable and replaced whole, so that a
request can read them while workers go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from nri_flox.flox.activation import ScriptedPlan, StaticPlan
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.scripts import NoScripts
from nri_flox.flox.store import StorePath
from nri_flox.flox.token import Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """One output of one generation, whole on this node: its closure laid out, its activation planned.

    Compared by identity: the same output realised anew is another one.
    """

    reference: Reference  # with its generation, where known
    mode: Mode
    store_path: StorePath
    view: str  # the directory on the node that a container sees as /nix/store
    plan: StaticPlan | ScriptedPlan
    scripts: str | NoScripts  # the directory on the node that a container sees as its scripts
    # Programs for places outside of the store, as (place, file in the view); see `programs`.
    programs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Want:
    """An environment as one credential may see it. `credential` is a keyed hash of a token, or None for the public."""

    reference: Reference
    mode: Mode
    credential: str | None

    @property
    def public(self) -> Want:
        return Want(self.reference, self.mode, None)

    def __str__(self) -> str:
        return f"{self.reference} ({self.mode})"


class Fault(Enum):
    """Why an environment can't be had."""

    NOT_FOUND = auto()
    TOKEN_REFUSED = auto()
    UNREACHABLE = auto()
    NO_SPACE = auto()
    UNSUPPORTED_SYSTEM = auto()
    BROKEN = auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed. `detail` is for people: one clean line; `place` is where it was looked for."""

    fault: Fault
    detail: str
    place: str
    at: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of the node's own that lies in its store: the view of its closure, and where containers find it."""

    store_path: StorePath
    view: str

    @property
    def bin(self) -> str:
        return f"{self.store_path}/bin"


@dataclass(frozen=True, slots=True)
class Layer:
    """Where on the node a container writes to its /nix: a file system of limited size, and this container's alone.

    `flox` is the node's, which can be used to install something there, if it lies in the store.
    """

    directory: str
    flox: Tool | None = field(default=None, compare=False)

    @property
    def mount_point(self) -> str:
        return f"{self.directory}/mounted"

    @property
    def nix(self) -> str:
        """What the container sees as /nix, but for the store."""
        return f"{self.mount_point}/nix"

    @property
    def upper(self) -> str:
        """What it writes to its store."""
        return f"{self.mount_point}/upper"

    @property
    def work(self) -> str:
        return f"{self.mount_point}/work"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one Want. Times are monotonic seconds.

    `looked` is when the node's own disk was last looked at; `environment` is the newest that was realised, and a check
    that began at `checked` found it the right one; `failure` is that of the newest attempt, when it failed; `since` is
    when the attempt under way was asked for.
    """

    looked: float = float("-inf")
    environment: Environment | None = None
    checked: float = float("-inf")
    failure: Failure | None = None
    since: float | None = None


NOTHING = Standing()


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod that names an environment, as far as decisions depend on what was seen of it.

    `began` is when its sandbox was first seen (monotonic seconds); `tokens` is None until its volumes were read;
    `kept` holds the environments that its containers run in, by `Want.public`: once the pod has shown that it may have
    one, it has it for life, whatever becomes of its token.
    """

    uid: str
    began: float
    tokens: Tokens | None = None
    kept: Mapping[Want, Environment] = field(default_factory=dict)
