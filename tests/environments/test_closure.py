"""Nix's database says what a closure is; an environment's own list is believed only where nobody else knows."""

import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from nri_flox.environments.closure import MAX_LIST, NoClosure, closure
from nri_flox.flox.store import Store, StorePath
from tests.standins import nixstore
from tests.standins.nixstore import Link, NixStore, Tree, path_of

needs_nix = pytest.mark.skipif(not nixstore.available(), reason="needs nix-store (Debian's package nix-bin)")


def unregistered(directory: Path, name: str, tree: Tree) -> StorePath:
    """A path that lies in the store, and that no database knows."""
    path = StorePath.parse(path_of(name, tree))
    place = directory / path.name
    if isinstance(tree, Link):
        place.symlink_to(tree.target)
        return path
    assert not isinstance(tree, (str, bytes))
    place.mkdir()
    for relative, leaf in tree.items():
        if isinstance(leaf, Link):
            (place / relative).symlink_to(leaf.target)
        else:
            (place / relative).write_bytes(leaf.encode() if isinstance(leaf, str) else leaf)
    return path


@pytest.fixture
def nix(tmp_path: Path) -> NixStore:
    return NixStore(tmp_path)


def known(nix: NixStore, path: str, *, listed: bool = False) -> set[str]:
    found = closure(Store(str(nix.store_dir)), str(nix.state_dir), StorePath.parse(path), listed=listed)
    return {str(member) for member in found}


@needs_nix
def test_the_closure_is_what_nix_says(nix: NixStore) -> None:
    path = nix.add_closure("large", 300)
    nix.add("other", "not part of it")
    found = known(nix, path)
    assert found == set(nix.query_requisites(path))
    assert len(found) == 300


@needs_nix
@pytest.mark.parametrize("listed", [True, False])
def test_the_database_goes_before_the_environments_own_list(nix: NixStore, listed: bool) -> None:
    stranger = nix.add("stranger", "a secret of somebody else's")
    path = nix.add("environment-run", {"requisites.txt": f"{stranger}\n"})
    assert known(nix, path, listed=listed) == {path}


@needs_nix
def test_a_path_that_the_database_does_not_know_has_no_closure(nix: NixStore) -> None:
    path = unregistered(nix.store_dir, "environment-run", {"requisites.txt": ""})
    with pytest.raises(NoClosure, match="is in no Nix database"):
        known(nix, str(path))
    assert known(nix, str(path), listed=True) == {str(path)}


@needs_nix
def test_a_closure_with_a_path_gone_from_the_disk_is_refused(nix: NixStore) -> None:
    library = nix.add("library", "1")
    path = nix.add("environment-run", {"bin/x": ""}, [library])
    nix.locate(library).unlink()
    with pytest.raises(NoClosure, match=rf"not whole: {library} is missing .* 1 path"):
        known(nix, path)


@needs_nix
def test_a_member_that_is_a_dangling_link_is_there(nix: NixStore) -> None:
    link = nix.add("link", Link("/nowhere/at/all"))
    path = nix.add("environment-run", {"bin/x": ""}, [link])
    assert known(nix, path) == {path, link}


@needs_nix
def test_references_in_a_circle_end(nix: NixStore) -> None:
    path, other = nix.add("environment-run", {"bin/x": ""}), nix.add("other", "1")
    with sqlite3.connect(nix.database) as database:
        ids = dict(database.execute("SELECT path, id FROM ValidPaths"))
        database.executemany(
            "INSERT OR IGNORE INTO Refs VALUES (?, ?)", [(ids[path], ids[other]), (ids[other], ids[path])]
        )
    assert known(nix, path) == {path, other}


@needs_nix
def test_the_database_is_only_read(nix: NixStore) -> None:
    path = nix.add_closure("large", 20)
    before = nix.database.read_bytes()
    known(nix, path)
    assert nix.database.read_bytes() == before
    assert nix.verify() == []


@needs_nix
def test_nix_can_write_meanwhile(nix: NixStore) -> None:
    path = nix.add_closure("large", 20)
    rows = "".join(f"/nix/store/{number:032d}-x\n{'1' * 64}\n1\n\n0\n" for number in range(5_000))
    loading = ["nix-store", "--store", nix.url, "--load-db"]
    with subprocess.Popen(loading, stdin=subprocess.PIPE, text=True) as writing:
        assert writing.stdin is not None
        writing.stdin.write(rows)
        writing.stdin.close()
        longest = 0.0
        while writing.poll() is None:
            began = time.monotonic()
            assert len(known(nix, path)) == 20
            longest = max(longest, time.monotonic() - began)
    assert longest < 1


@pytest.mark.parametrize("content", [b"", b"this is no database at all" * 100, b"SQLite format 3\0" + bytes(1000)])
def test_a_database_that_cannot_be_read_is_no_licence_for_the_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "var/db").mkdir(parents=True)
    (tmp_path / "var/db/db.sqlite").write_bytes(content)
    path = unregistered(tmp_path / "store", "environment-run", {"requisites.txt": ""})
    with pytest.raises(NoClosure, match="can't be read"):
        closure(Store(str(tmp_path / "store")), str(tmp_path / "var"), path, listed=True)


class Listed:
    """A store that no database knows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "store"
        self.directory.mkdir()
        self.member = unregistered(self.directory, "member", {"file": "1"})

    def closure(self, tree: Tree, *, listed: bool = True) -> set[StorePath]:
        path = unregistered(self.directory, "environment-run", tree)
        return set(closure(Store(str(self.directory)), str(self.directory / "no-state"), path, listed=listed)) - {path}


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    return Listed(tmp_path)


def test_the_list_is_the_closure_where_no_database_is(listed: Listed) -> None:
    assert listed.closure({"requisites.txt": f"{listed.member}\n"}) == {listed.member}


def test_only_the_directory_source_reads_lists(listed: Listed) -> None:
    with pytest.raises(NoClosure, match="is in no Nix database"):
        listed.closure({"requisites.txt": f"{listed.member}\n"}, listed=False)


def test_no_list_is_no_closure(listed: Listed) -> None:
    with pytest.raises(NoClosure, match="is in no Nix database"):
        listed.closure({"bin": ""})


@pytest.mark.parametrize(
    "line",
    [
        "/etc/passwd",
        "/nix/store",
        "/nix/store/",
        "/nix/store/..",
        "/nix/store/../../etc",
        "/nix/store/.links",
        "{member}/file",
        "{member}/..",
        "{member}/",
        " {member}",
        "{member}\r",
        "{member}\0",
        "nix/store/{name}",
        "/nix/store//{name}",
        "../{name}",
        "/nix/store/" + "0" * 32,
        "/nix/store/" + "0" * 32 + "-" + "x" * 300,
        "\x1b[31m" + "x" * 100_000,
        "\udcff",
    ],
)
def test_a_line_that_is_no_direct_child_of_the_store_refuses_the_list(listed: Listed, line: str) -> None:
    text = line.format(member=listed.member, name=listed.member.name) if "{" in line else line
    content = f"{listed.member}\n{text}\n".encode(errors="surrogateescape")
    with pytest.raises(NoClosure, match="is no store path") as raised:
        listed.closure({"requisites.txt": content})
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


def test_a_listed_path_that_is_not_there_refuses_the_list(listed: Listed) -> None:
    missing = "/nix/store/" + "0" * 32 + "-missing"
    with pytest.raises(NoClosure, match=f"not whole: {missing} is missing"):
        listed.closure({"requisites.txt": f"{missing}\n"})


def test_a_list_beyond_the_limit_is_refused(listed: Listed) -> None:
    line = f"{listed.member}\n"
    with pytest.raises(NoClosure, match="larger than"):
        listed.closure({"requisites.txt": line * (5 * 1024 * 1024 // len(line))})


def test_a_list_at_the_limit_is_read(listed: Listed) -> None:
    assert listed.closure({"requisites.txt": f"{listed.member}\n".ljust(MAX_LIST, "\n")}) == {listed.member}


@pytest.mark.parametrize("target", ["/etc/hosts", "../../outside", "requisites.txt"])
def test_a_list_that_is_a_link_out_of_the_environment_is_refused(listed: Listed, target: str) -> None:
    (listed.directory.parent / "outside").write_text(f"{listed.member}\n")
    with pytest.raises(NoClosure, match="can't be read"):
        listed.closure({"requisites.txt": Link(target)})


def test_a_list_that_is_a_fifo_does_not_block(listed: Listed) -> None:
    path = unregistered(listed.directory, "environment-run", {})
    os.mkfifo(listed.directory / path.name / "requisites.txt")
    with pytest.raises(NoClosure, match="FIFO"):
        closure(Store(str(listed.directory)), str(listed.directory / "no-state"), path, listed=True)


def test_an_environment_that_is_a_link_to_the_root_has_no_closure(listed: Listed) -> None:
    path = unregistered(listed.directory, "environment-run", Link("/"))
    with pytest.raises(NoClosure):
        closure(Store(str(listed.directory)), str(listed.directory / "no-state"), path, listed=True)
