"""The `directory` source: rendered environments that lie on the node already, named by links that an operator keeps.

`<directory>/<owner>/<name>/live` and `<directory>/<owner>/<name>/<N>` lead to store paths; `live-dev` and `<N>-dev` are
for dev mode, where that differs.
"""

from __future__ import annotations

import os
import posixpath
import time

from nri_flox.environments.source import Found, Missing
from nri_flox.flox.environment import Fault
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.store import Store, StorePath
from nri_flox.flox.token import Lent

_MAX_LINKS = 40  # as the kernel follows


class DirectorySource:
    is_local = True
    closure_listed = True

    def __init__(self, directory: str, store: Store) -> None:
        self._directory = directory
        self._store = store

    @property
    def place(self) -> str:
        return f"in {self._directory}"

    def look(self, reference: Reference, mode: Mode, lent: Lent | None) -> Found | None:
        began = time.monotonic()
        links = posixpath.join(self._directory, reference.owner, reference.name)
        generation = str(reference.generation) if reference.generation else "live"
        for name in (f"{generation}-dev", generation) if mode is Mode.DEV else (generation,):
            link = posixpath.join(links, name)
            if os.path.lexists(link):
                return self._follow(link, reference.generation, began)
        return None

    def fetch(self, reference: Reference, mode: Mode, lent: Lent | None, *, metrics: bool) -> Found:
        found = self.look(reference, mode, lent)
        if found is None:
            raise Missing(Fault.NOT_FOUND, f"{reference} is not in {self._directory}")
        return found

    def stop(self) -> None:
        """Nothing here takes long."""

    def _follow(self, link: str, generation: int | None, began: float) -> Found:
        """The store path that `link` leads to, and the generation when a link on the way is named by it."""
        at = link
        for _ in range(_MAX_LINKS):
            number = posixpath.basename(at).removesuffix("-dev")
            if generation is None and posixpath.dirname(at) == posixpath.dirname(link) and number.isdecimal():
                generation = int(number)
            try:
                at = posixpath.normpath(posixpath.join(posixpath.dirname(at), os.readlink(at)))
            except OSError as error:
                raise Missing(
                    Fault.BROKEN, f"{link} does not lead to a rendered environment ({error.strerror}: {at})"
                ) from None
            if found := self._store_path(at):
                return Found(found, generation, began)
        raise Missing(Fault.BROKEN, f"{link} leads through too many links")

    def _store_path(self, at: str) -> StorePath | None:
        parent, name = posixpath.split(at)
        if parent in ("/nix/store", posixpath.normpath(self._store.directory)):
            try:
                return StorePath.parse(f"/nix/store/{name}")
            except ValueError:
                raise Missing(Fault.BROKEN, f"{at} is no store path") from None
        return None
