"""The `directory` source follows an operator's links to a store path, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from nri_flox.environments.directory import DirectorySource
from nri_flox.environments.source import Missing
from nri_flox.flox.environment import Fault
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.store import Store

ONE, TWO = ("/nix/store/" + "0" * 31 + digit + "-environment-run" for digit in "12")


class Links:
    def __init__(self, directory: Path) -> None:
        self.store_dir = directory / "store"
        self.environment = directory / "environments/acme/tools"
        self.environment.mkdir(parents=True)
        self.source = DirectorySource(str(directory / "environments"), Store(str(self.store_dir)))

    def link(self, name: str, target: str) -> None:
        (self.environment / name).symlink_to(target)

    def fetch(self, reference: str = "acme/tools", mode: Mode = Mode.RUN) -> tuple[str, int | None]:
        found = self.source.fetch(Reference.parse(reference), mode, None, metrics=True)
        return str(found.store_path), found.generation


@pytest.fixture
def links(tmp_path: Path) -> Links:
    return Links(tmp_path)


def test_live_leads_to_a_store_path(links: Links) -> None:
    links.link("live", ONE)
    assert links.fetch() == (ONE, None)


def test_a_generation_has_a_link_of_its_own(links: Links) -> None:
    links.link("live", ONE)
    links.link("2", TWO)
    assert links.fetch("acme/tools:2") == (TWO, 2)


def test_live_through_the_link_of_a_generation_tells_which_one_it_is(links: Links) -> None:
    links.link("live", "3")
    links.link("3", ONE)
    assert links.fetch() == (ONE, 3)


def test_dev_mode_has_links_of_its_own_and_else_the_same(links: Links) -> None:
    links.link("live", ONE)
    assert links.fetch(mode=Mode.DEV) == (ONE, None)
    links.link("live-dev", "4-dev")
    links.link("4-dev", TWO)
    assert links.fetch(mode=Mode.DEV) == (TWO, 4)
    assert links.fetch() == (ONE, None)


def test_the_store_may_be_named_by_where_it_lies(links: Links) -> None:
    links.link("live", f"{links.store_dir}/{Path(ONE).name}")
    assert links.fetch() == (ONE, None)


def test_links_on_the_way_may_lead_anywhere(links: Links, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/7").symlink_to(ONE)
    links.link("live", "../../../elsewhere/7")
    assert links.fetch() == (ONE, None), "7 is no generation in another directory"


def test_a_link_that_changed_is_seen_at_the_next_check(links: Links) -> None:
    links.link("live", ONE)
    began = time.monotonic()
    links.fetch()
    (links.environment / "live").unlink()
    links.link("live", TWO)
    found = links.source.fetch(Reference.parse("acme/tools"), Mode.RUN, None, metrics=True)
    assert str(found.store_path) == TWO
    assert found.checked >= began


@pytest.mark.parametrize("reference", ["acme/tools:9", "acme/other", "other/tools"])
def test_what_has_no_link_is_not_found(links: Links, reference: str) -> None:
    links.link("live", ONE)
    assert links.source.look(Reference.parse(reference), Mode.RUN, None) is None
    with pytest.raises(Missing, match=f"{reference} is not in ") as raised:
        links.fetch(reference)
    assert raised.value.fault is Fault.NOT_FOUND


@pytest.mark.parametrize(
    "target",
    [
        "nowhere",
        "/",
        "/etc/passwd",
        "..",
        ".",
        "live",
        "/nix/store",
        f"{ONE}/bin",
        "/nix/store/nonsense",
        "/nix/store/..",
    ],
)
def test_a_link_that_leads_to_no_store_path_is_broken(links: Links, target: str) -> None:
    links.link("live", target)
    with pytest.raises(Missing) as raised:
        links.fetch()
    assert raised.value.fault is Fault.BROKEN


def test_links_in_a_circle_are_broken(links: Links) -> None:
    links.link("live", "2")
    links.link("2", "live")
    with pytest.raises(Missing, match="too many links"):
        links.fetch()


def test_a_directory_in_place_of_a_link_is_broken(links: Links) -> None:
    (links.environment / "live").mkdir()
    with pytest.raises(Missing, match="does not lead to a rendered environment"):
        links.fetch()


def test_a_fifo_in_place_of_a_link_does_not_block(links: Links) -> None:
    os.mkfifo(links.environment / "live")
    with pytest.raises(Missing) as raised:
        links.fetch()
    assert raised.value.fault is Fault.BROKEN
