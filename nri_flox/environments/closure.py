"""The closure of a rendered environment: every store path that it needs at run time, itself included.

Nix's database is the authority. Only for the `directory` source, and only where no database knows the path, is the
environment's own list (`requisites.txt`) taken, whose every line must still be a direct child of the store that exists.
"""

from __future__ import annotations

import os

from nri_flox.flox.beneath import UnsafeFile, read_regular
from nri_flox.flox.store import Store, StorePath
from nri_flox.flox.wording import quote

MAX_LIST = 4 * 1024 * 1024  # bytes of requisites.txt, some 60,000 paths


class NoClosure(Exception):
    """The closure is not known, or not whole; the text says why."""


def closure(store: Store, state_dir: str, path: StorePath, *, listed: bool) -> frozenset[StorePath]:
    """The closure of `path`. With `listed`, requisites.txt is taken where Nix's database does not know the path.

    `state_dir` is Nix's (its database lies at `db/db.sqlite` below). Raises NoClosure.
    """
    found = _from_database(os.path.join(state_dir, "db", "db.sqlite"), path)
    if found is None and listed:
        found = _from_list(store, path)
    if found is None:
        raise NoClosure(f"{path} is in no Nix database at {state_dir}, so its closure is not known")
    absent = sorted(str(member) for member in found if not os.path.lexists(store.locate(member)))
    if absent:
        raise NoClosure(f"{path} is not whole: {absent[0]} is missing from the store, {len(absent)} path(s) in all")
    return found


def _from_database(database: str, path: StorePath) -> frozenset[StorePath] | None:
    if not os.path.exists(database):
        return None
    import sqlite3  # Some megabytes of memory, which a node with listed closures never needs.
    from urllib.parse import quote as quote_url

    try:
        connection = sqlite3.connect(f"file:{quote_url(database)}?mode=ro", uri=True, timeout=10)
        try:
            rows = connection.execute(_CLOSURE, (str(path),)).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise NoClosure(f"Nix's database {database} can't be read: {error}") from None
    return frozenset(_member(path, row[0]) for row in rows) or None


_CLOSURE = """
    WITH RECURSIVE closure(id) AS (
        SELECT id FROM ValidPaths WHERE path = ?
        UNION
        SELECT reference FROM Refs JOIN closure ON referrer = closure.id
    )
    SELECT path FROM ValidPaths WHERE id IN closure
"""


def _from_list(store: Store, path: StorePath) -> frozenset[StorePath] | None:
    try:
        # Nothing is known of a closure yet, so the list must lie in the environment's own store path.
        data = read_regular(
            store.directory, f"{path.name}/requisites.txt", limit=MAX_LIST, admits={path.name}.__contains__
        )
    except FileNotFoundError:
        return None
    except (UnsafeFile, OSError) as error:
        raise NoClosure(f"requisites.txt of {path} can't be read: {error}") from None
    lines = data.decode(errors="replace").split("\n")
    return frozenset({path, *(_member(path, line) for line in lines if line)})


def _member(path: StorePath, text: str) -> StorePath:
    try:
        return StorePath.parse(text)
    except ValueError:
        raise NoClosure(f"the closure of {path} names {quote(text)}, which is no store path") from None
