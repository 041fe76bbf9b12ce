"""How a pod names an environment: `owner/name`, or `owner/name:N` for one generation of it.

A reference that exists is valid: it is made by `Reference.parse` from a pod's text, and its parts are safe as
components of a path and as arguments of a command. Whether such an environment exists is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

REFERENCE_SHAPE = (
    "owner/name or owner/name:N; owner and name are letters, digits, '.', '_' and '-', start with a letter or "
    "digit and have at most 64 characters; N is a positive whole number without leading zero"
)

_PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
# 18 digits are far more than FloxHub counts to, and stay within what every reader of a number can hold.
_REFERENCE = re.compile(f"({_PART})/({_PART})(?::([1-9][0-9]{{0,17}}))?")


class Mode(StrEnum):
    """How an environment is activated; each mode has an output of its own (`-run`, `-dev`)."""

    RUN = "run"
    DEV = "dev"


@dataclass(frozen=True, slots=True)
class Reference:
    """An environment on FloxHub: its live generation, or generation `generation` of it."""

    owner: str
    name: str
    generation: int | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises ValueError when `text` is no reference (REFERENCE_SHAPE says what one looks like)."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(f"not an environment: {REFERENCE_SHAPE}")
        owner, name, generation = match.groups()
        return cls(owner, name, int(generation) if generation else None)

    @property
    def pinned(self) -> bool:
        return self.generation is not None

    @property
    def environment(self) -> str:
        """`owner/name`, whatever the generation."""
        return f"{self.owner}/{self.name}"

    def at(self, generation: int | None) -> Reference:
        """The same environment at `generation`; at its own when that is None."""
        return self if generation is None else Reference(self.owner, self.name, generation)

    def __str__(self) -> str:
        return self.environment if self.generation is None else f"{self.environment}:{self.generation}"
