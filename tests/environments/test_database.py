"""Databases of one closure, against Nix's own tools."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from nri_flox.environments.closure import NoClosure
from nri_flox.environments.database import copy_of_closures
from nri_flox.flox.store import StorePath
from tests.standins import nixstore
from tests.standins.nixstore import NixStore


@pytest.fixture
def store(tmp_path: Path) -> NixStore:
    if not nixstore.available():
        pytest.skip("no Nix on this machine")
    return NixStore(tmp_path / "node")


def taken(store: NixStore, path: str, to: Path) -> NixStore:
    """A store that has the closure of `path` and its database alone, as a container would."""
    inside = to / "nix/var/nix/db"
    inside.mkdir(parents=True)
    inside.with_name("gcroots").mkdir()
    copy_of_closures(str(store.state_dir), [StorePath.parse(path)], str(inside / "db.sqlite"))
    shutil.copy(store.state_dir / "db/schema", inside)
    (to / "nix/store").mkdir()
    for member in store.query_requisites(path):
        source = store.locate(member)
        if source.is_symlink() or source.is_file():
            shutil.copy2(source, to / "nix/store", follow_symlinks=False)
        else:
            shutil.copytree(source, to / "nix/store" / source.name, symlinks=True)
    return NixStore(to)


def test_database_knows_the_closure_as_the_nodes_does_and_nothing_else(store: NixStore, tmp_path: Path) -> None:
    path = store.add_closure("tools", 20)
    neighbour = store.add_closure("neighbour", 5)
    inside = taken(store, path, tmp_path / "inside")
    members = store.query_requisites(path)
    assert inside.query_requisites(path) == members
    assert inside.rows(members) == store.rows(members)
    assert not inside.is_valid(neighbour)
    assert inside.verify() == []
    with sqlite3.connect(inside.database) as connection:
        assert connection.execute("SELECT count(*) FROM ValidPaths").fetchone() == (len(members),)


def test_nix_adds_to_it_and_collects_all_that_has_no_root(store: NixStore, tmp_path: Path) -> None:
    path = store.add_closure("tools", 5)
    inside = taken(store, path, tmp_path / "inside")
    inside.root("kept", path)
    added = inside.add("added", "content")
    assert inside.gc() == [added]
    assert inside.is_valid(path)
    assert store.is_valid(path)


def test_several_closures_make_one_database(store: NixStore, tmp_path: Path) -> None:
    paths = [StorePath.parse(store.add_closure(name, 5)) for name in ("tools", "more", "left-out")][:2]
    copy_of_closures(str(store.state_dir), paths, str(tmp_path / "db"))
    with sqlite3.connect(tmp_path / "db") as connection:
        known = {row[0] for row in connection.execute("SELECT path FROM ValidPaths")}
    assert known == set(store.query_requisites(*map(str, paths)))


def test_it_is_one_file_that_a_copy_of_is_a_database(store: NixStore, tmp_path: Path) -> None:
    path = store.add_closure("tools", 5)
    copy_of_closures(str(store.state_dir), [StorePath.parse(path)], str(tmp_path / "db"))
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("db")] == ["db"]
    assert (tmp_path / "db").read_bytes()[18:20] == b"\1\1", "no write-ahead log"


def test_node_that_writes_meanwhile_is_no_hindrance(store: NixStore, tmp_path: Path) -> None:
    path = store.add_closure("tools", 5)
    with sqlite3.connect(store.database) as writing:
        writing.execute("UPDATE ValidPaths SET registrationTime = 7")
        copy_of_closures(str(store.state_dir), [StorePath.parse(path)], str(tmp_path / "db"))
    with sqlite3.connect(tmp_path / "db") as connection:
        assert connection.execute("SELECT count(*) FROM ValidPaths WHERE registrationTime = 7").fetchone() == (0,)


def test_path_that_nix_does_not_know_has_none(store: NixStore, tmp_path: Path) -> None:
    path = StorePath.parse(f"/nix/store/{'0' * 32}-unknown")
    with pytest.raises(NoClosure, match="in no Nix database"):
        copy_of_closures(str(store.state_dir), [path], str(tmp_path / "db"))
    with pytest.raises(NoClosure, match="no Nix database"):
        copy_of_closures(str(tmp_path), [path], str(tmp_path / "db"))
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith("db")]


def test_database_that_is_none_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db/db.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(NoClosure, match="can't be read"):
        copy_of_closures(str(tmp_path), [StorePath.parse(f"/nix/store/{'0' * 32}-tool")], str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
