"""Where environments come from: what every source can be asked, and how it says that it has none.

A source runs in a worker and may take its time. It only finds the rendered environment; closure, view and plan are
made of it in one way for all sources (`realise`).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Protocol

from nri_flox.flox.environment import Fault
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.store import StorePath
from nri_flox.flox.token import Lent


@dataclass(frozen=True, slots=True)
class Found:
    """A rendered environment in the store.

    `generation` is set where the source knows it. `checked` is when a check began that found this to be what the
    reference names and the token to open it (monotonic seconds).
    """

    store_path: StorePath
    generation: int | None
    checked: float


class Missing(Exception):
    """The source has no such environment, or can't say; the text is one clean line for people."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


def fault_of(error: OSError) -> Fault:
    """What the file system's refusal means for an environment."""
    return Fault.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Fault.BROKEN


# Definite answers: what an earlier check had allowed ends with them.
REFUSALS = (Fault.NOT_FOUND, Fault.TOKEN_REFUSED)


def ends_all(fault: Fault, reference: Reference) -> bool:
    """Whether a refusal of `reference` is one of its environment in every generation.

    Not where only the generation may be missing.
    """
    return fault is Fault.TOKEN_REFUSED or not reference.pinned


class Source(Protocol):
    @property
    def place(self) -> str:
        """Where this source looks, as in "was not found ..."."""

    @property
    def is_local(self) -> bool:
        """Whether all that this source knows lies on this node, so that a look at it is as good as a fetch."""

    @property
    def closure_listed(self) -> bool:
        """Whether an environment's own list of its closure is good enough where no Nix database knows it."""

    def look(self, reference: Reference, mode: Mode, lent: Lent | None) -> Found | None:
        """What lies on this node from before, without asking anybody else."""

    def fetch(self, reference: Reference, mode: Mode, lent: Lent | None, *, metrics: bool) -> Found:
        """The newest of what `reference` names. Raises Missing."""

    def stop(self) -> None:
        """End what is under way, for the service ends; `fetch` raises Missing then."""
