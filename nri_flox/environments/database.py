"""A Nix database of some closures alone, made from the node's: what `nix-store --query` answers from in a container.

It has the node's own schema, whatever its version, and the rows of the closures. It is one file, without a journal
beside it, so that a copy of the file is a database.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nri_flox.environments.closure import NoClosure
from nri_flox.flox.store import StorePath

if TYPE_CHECKING:
    from sqlite3 import Cursor

_MEMBERS = """
    CREATE TEMP TABLE members AS
    WITH RECURSIVE closure(id) AS (
        SELECT id FROM node.ValidPaths WHERE path IN roots
        UNION
        SELECT reference FROM node.Refs JOIN closure ON referrer = closure.id
    )
    SELECT id FROM closure
"""


def copy_of_closures(state_dir: str, paths: Sequence[StorePath], target: str) -> None:
    """Write the database of the closures of `paths` to the file `target`, from Nix's state in `state_dir`.

    It appears whole or not at all. Raises NoClosure where the node's database doesn't know a path or can't be read.
    """
    source = os.path.join(state_dir, "db", "db.sqlite")
    if not os.path.exists(source):
        raise NoClosure(f"there is no Nix database at {state_dir}")
    import sqlite3  # As in `closure`.
    from urllib.parse import quote

    building = f"{target}.new"
    if os.path.exists(building):
        os.unlink(building)
    try:
        connection = sqlite3.connect(f"file:{quote(building)}", uri=True, timeout=10, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("ATTACH ? AS node", (f"file:{quote(source)}?mode=ro",))
            connection.execute("BEGIN")  # one state of the node's database
            _fill(connection.execute, paths)
            known = {row[0] for row in connection.execute("SELECT path FROM main.ValidPaths")}
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise NoClosure(f"Nix's database {source} can't be read: {error}") from None
    for path in paths:
        if str(path) not in known:
            os.unlink(building)
            raise NoClosure(f"{path} is in no Nix database at {state_dir}")
    os.replace(building, target)


def _fill(execute: Callable[..., Cursor], paths: Sequence[StorePath]) -> None:
    schema = execute("SELECT type, name, sql FROM node.sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'")
    statements = {(kind, name): sql for kind, name, sql in schema}
    tables = {name for kind, name in statements if kind == "table"}
    for (kind, _), sql in statements.items():
        if kind == "table":
            execute(sql)
    execute("CREATE TEMP TABLE roots(path TEXT)")
    for path in paths:
        execute("INSERT INTO roots VALUES (?)", (str(path),))
    execute(_MEMBERS)
    execute("INSERT INTO main.ValidPaths SELECT * FROM node.ValidPaths WHERE id IN members")
    execute("INSERT INTO main.Refs SELECT * FROM node.Refs WHERE referrer IN members")
    # The recipe of a path is no part of its closure, and nothing that this container could have.
    execute("UPDATE main.ValidPaths SET deriver = NULL")
    if "SchemaMigrations" in tables:  # which later versions of Nix have, and look at
        execute("INSERT INTO main.SchemaMigrations SELECT * FROM node.SchemaMigrations")
    for (kind, _), sql in statements.items():
        if kind != "table":
            execute(sql)
