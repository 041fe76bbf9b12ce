"""A scripts directory is made once for each content, whole or not at all, and never changes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nri_flox.environments.scripts import place
from nri_flox.environments.view import prepare, remove, unfinished
from nri_flox.flox.scripts import Scripts
from nri_flox.flox.store import StorePath

PATH = StorePath(f"{'0' * 32}-environment-run")
SCRIPTS = Scripts({"start": "one", "attach": "two"}, frozenset({"sh", "tool [1]"}))


@pytest.fixture
def views(tmp_path: Path) -> Path:
    prepare(str(tmp_path / "views"))
    return tmp_path / "views"


def placed(views: Path, scripts: Scripts = SCRIPTS) -> Path:
    return Path(place(str(views), PATH, scripts))


def test_any_user_of_a_container_can_run_what_is_in_it(views: Path) -> None:
    directory = placed(views)
    assert {entry.name for entry in directory.iterdir()} == {"start", "attach", "bin"}
    assert (directory / "start").read_text() == "one"
    for entry in (directory, directory / "bin", directory / "start"):
        assert entry.stat().st_mode & 0o777 == 0o555
    assert {entry.name: os.readlink(entry) for entry in (directory / "bin").iterdir()} == {
        "sh": "../attach",
        "tool [1]": "../attach",
    }


def test_the_same_content_is_made_once(views: Path) -> None:
    directory = placed(views)
    before = directory.stat().st_ino
    assert placed(views) == directory
    assert directory.stat().st_ino == before


@pytest.mark.parametrize(
    "other",
    [
        Scripts({**SCRIPTS.files, "start": "of another version"}, SCRIPTS.stand_ins),
        Scripts({**SCRIPTS.files, "more": ""}, SCRIPTS.stand_ins),
        Scripts(SCRIPTS.files, frozenset({"sh"})),
    ],
)
def test_another_content_is_another_directory(views: Path, other: Scripts) -> None:
    first = placed(views)
    second = placed(views, other)
    assert second != first
    assert (placed(views), placed(views, other)) == (first, second)
    assert (first / "start").read_text() == "one"


def test_workers_that_make_it_at_the_same_time_end_with_one(views: Path) -> None:
    made: list[Path] = []
    workers = [threading.Thread(target=lambda: made.append(placed(views))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(made)) == 1
    assert len(made) == len(workers)
    assert os.listdir(views) == [made[0].name]


def test_nothing_is_left_of_one_that_could_not_be_made(views: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        placed(views, Scripts({}, frozenset({"x" * 256})))
    assert os.listdir(views) == []


def test_what_a_kill_left_is_swept_away_and_nothing_else(views: Path) -> None:
    directory = placed(views)
    (views / ".building-7-scripts").mkdir()
    for left in unfinished(str(views)):
        remove(left)
    assert os.listdir(views) == [directory.name]
