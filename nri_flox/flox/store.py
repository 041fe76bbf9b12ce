"""Store paths, and where the store lies on this node.

A store path is always written `/nix/store/<hash>-<name>`: that is what files of an environment say, and where
a container sees it. Where the bytes are on the node is the business of `Store` alone (a demo, a test or an
image may keep its store elsewhere). This module reads and writes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STORE_DIR = "/nix/store"

# Nix's base 32 has no e, o, t and u; a name has at most 211 characters of this set (Nix manual, "Store
# Path").
_NAME = re.compile(r"[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}")


@dataclass(frozen=True, slots=True, order=True)
class StorePath:
    """A direct child of the store; `name` is its file name, `<32 characters>-<rest>`."""

    name: str

    @classmethod
    def parse(cls, text: str) -> StorePath:
        """Raises ValueError unless `text` is exactly a direct child of /nix/store."""
        directory, _, name = text.rpartition("/")
        if directory != STORE_DIR or not _NAME.fullmatch(name):
            raise ValueError(f"{text[:300]!r} is not a store path")
        return cls(name)

    def __str__(self) -> str:
        return f"{STORE_DIR}/{self.name}"


@dataclass(frozen=True, slots=True)
class Store:
    """The directory on this node that holds what is called /nix/store."""

    directory: str = STORE_DIR

    def locate(self, path: StorePath) -> str:
        """Where the store path is on this node. What lies there may be a symlink to anywhere."""
        return f"{self.directory}/{path.name}"
