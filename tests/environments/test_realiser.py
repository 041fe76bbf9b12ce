"""One attempt serves all who ask, each pod gets a check that is new enough, every attempt ends in the catalogue."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nri_flox.adjust.decision import Fetch
from nri_flox.demo import render
from nri_flox.environments import realiser as realising
from nri_flox.environments.catalogue import Catalogue
from nri_flox.environments.directory import DirectorySource
from nri_flox.environments.realiser import Layout, Realiser
from nri_flox.environments.source import Found, Missing, Source
from nri_flox.environments.view import prepare
from nri_flox.flox.environment import NOTHING, Failure, Fault, PodRecord, Standing, Want
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.store import Store, StorePath
from nri_flox.flox.token import Lent, Token

TOOLS = Want(Reference.parse("acme/tools"), Mode.RUN, None)
OTHER = Want(Reference.parse("acme/other"), Mode.RUN, None)


@dataclass
class Playing:
    """A source whose every fetch does what the test says, and waits until it may."""

    path: StorePath
    place: str = "on a stage"
    is_local: bool = False
    closure_listed: bool = True
    act: Callable[[], None] = lambda: None
    here: Found | None = None
    looks: int = 0
    fetches: list[bool] = field(default_factory=list)  # whether with metrics
    may_go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_go.set()

    def look(self, reference: Reference, mode: Mode, lent: Lent | None) -> Found | None:
        self.looks += 1
        return self.here

    def fetch(self, reference: Reference, mode: Mode, lent: Lent | None, *, metrics: bool) -> Found:
        began = time.monotonic()
        self.fetches.append(metrics)
        assert self.may_go.wait(10)
        self.act()
        return Found(self.path, None, began)

    def stop(self) -> None:
        self.may_go.set()


@dataclass
class Heard:
    """The reports of the workers."""

    began: list[Want] = field(default_factory=list)
    ended: list[Fault | None] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def attempt_began(self, want: Want) -> None:
        self.began.append(want)

    def attempt_ended(self, want: Want, seconds: float, failure: Failure | None) -> None:
        self.ended.append(None if failure is None else failure.fault)

    def failed(self, where: str, error: Exception) -> None:
        self.errors.append(error)


class Node:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store(str(directory / "store"))
        self.view_dir = str(directory / "views")
        prepare(self.view_dir)
        self.path = render.render(self.store.directory, "acme", "tools")
        self.source = Playing(self.path)
        self.heard = Heard()
        self.catalogue = Catalogue()
        self.realiser = self.made(self.source)

    def made(self, *sources: Source, width: int = 2) -> Realiser:
        layout = Layout(self.store, str(self.directory / "nix"), self.view_dir)
        return Realiser(self.catalogue, sources, layout, self.heard, width=width, on_error=self.heard.failed)

    def ask(self, want: Want = TOOLS, *, not_before: float = 0, local: bool = False, metrics: bool = True) -> None:
        lent = Lent(want.credential, Token("x"), "") if want.credential else None
        self.realiser.ask(Fetch(want, lent, not_before, local, metrics))

    def settled(self, want: Want = TOOLS) -> Standing:
        """How `want` stands once nothing is under way for it."""
        until = time.monotonic() + 10
        while (standing := self.catalogue.standing(want)) is NOTHING or standing.since is not None:
            assert time.monotonic() < until, "the attempt does not end"
            time.sleep(0.002)
        return standing

    def failure(self, want: Want = TOOLS) -> Failure:
        failure = self.settled(want).failure
        assert failure is not None
        return failure

    def raising(self, error: Exception) -> None:
        def act() -> None:
            raise error

        self.source.act = act


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.realiser.close(5)


def test_what_is_fetched_can_be_mounted_and_activated(node: Node) -> None:
    node.ask()
    environment = node.settled().environment
    assert environment is not None
    assert environment.store_path == node.path
    assert os.path.isdir(f"{environment.view}/{node.path.name}/activate.d")
    assert (node.heard.began, node.heard.ended) == ([TOOLS], [None])


def test_fifty_who_ask_at_once_are_served_by_one_fetch(node: Node) -> None:
    node.source.may_go.clear()
    asking = [threading.Thread(target=node.ask) for _ in range(50)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert node.catalogue.standing(TOOLS).since is not None, "asking waits for nothing"
    node.source.may_go.set()
    assert node.settled().environment is not None
    assert len(node.source.fetches) == 1


def test_asking_never_waits_however_many_are_at_work(node: Node) -> None:
    node.source.may_go.clear()
    began = time.monotonic()
    for number in range(500):
        node.ask(Want(Reference("acme", f"e{number}"), Mode.RUN, None))
    assert time.monotonic() - began < 2


def test_a_check_that_is_new_enough_is_not_made_again(node: Node) -> None:
    before = time.monotonic()
    node.ask()
    checked = node.settled().checked
    node.ask(not_before=before)
    assert node.settled().checked == checked
    assert len(node.source.fetches) == 1


def test_a_pod_that_comes_too_late_for_a_check_gets_one_of_its_own(node: Node) -> None:
    node.ask()
    first = node.settled()
    later = time.monotonic()
    node.ask(not_before=later)
    second = node.settled()
    assert second.checked >= later
    assert second.environment is first.environment, "what has not changed is the same for all its pods"


def test_a_pod_that_comes_too_late_for_the_check_under_way_gets_the_next(node: Node) -> None:
    node.source.may_go.clear()
    node.ask()
    while not node.source.fetches:
        time.sleep(0.002)
    later = time.monotonic()
    for _ in range(20):
        node.ask(not_before=later)
    node.source.may_go.set()
    while node.settled().checked < later:
        time.sleep(0.002)
    assert len(node.source.fetches) == 2


def test_of_those_who_wait_the_one_who_wants_a_fetch_is_not_forgotten(node: Node) -> None:
    node.source.may_go.clear()
    node.ask()
    while not node.source.fetches:
        time.sleep(0.002)
    later = time.monotonic()
    node.ask(not_before=later)
    node.ask(not_before=later, local=True)
    node.source.may_go.set()
    until = time.monotonic() + 5
    while node.settled().checked < later:
        assert time.monotonic() < until, "the local request took the place of the other"
        time.sleep(0.002)


def test_environments_do_not_wait_for_each_other(node: Node) -> None:
    node.source.may_go.clear()
    node.ask(TOOLS)
    node.ask(OTHER)
    until = time.monotonic() + 5
    while len(node.source.fetches) < 2:
        assert time.monotonic() < until
        time.sleep(0.002)
    node.source.may_go.set()
    assert node.settled(TOOLS).environment is not None
    assert node.settled(OTHER).environment is not None


def test_each_credential_has_an_attempt_and_a_standing_of_its_own(node: Node) -> None:
    private = Want(TOOLS.reference, Mode.RUN, "1" * 40)
    node.ask(private)
    assert node.settled(private).environment is not None
    assert node.catalogue.standing(TOOLS) is NOTHING


def test_metrics_are_off_when_one_of_those_who_ask_wants_them_off(node: Node) -> None:
    node.realiser = node.made(node.source, width=1)
    node.source.may_go.clear()
    node.ask(OTHER)
    node.ask(metrics=True)
    node.ask(metrics=False)
    node.ask(metrics=True)
    node.source.may_go.set()
    node.settled(OTHER)
    node.settled()
    assert node.source.fetches == [True, False]


# ---------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("fault", list(Fault))
def test_a_failure_is_published_with_its_words(node: Node, fault: Fault) -> None:
    node.raising(Missing(fault, "why it is so"))
    began = time.monotonic()
    node.ask()
    failure = node.failure()
    assert (failure.fault, failure.detail, failure.place) == (fault, "why it is so", "on a stage")
    assert failure.at >= began
    assert node.heard.ended == [fault]
    assert node.heard.errors == []


@pytest.mark.parametrize("fault", [Fault.NOT_FOUND, Fault.TOKEN_REFUSED])
def test_a_definite_refusal_takes_away_what_was_there(node: Node, fault: Fault) -> None:
    node.ask()
    node.settled()
    node.raising(Missing(fault, ""))
    node.ask(not_before=time.monotonic())
    standing = node.settled()
    assert standing.environment is None
    assert standing.checked == NOTHING.checked


@pytest.mark.parametrize(
    ("refused", "fault", "others_stay"),
    [
        ("acme/tools", Fault.TOKEN_REFUSED, False),
        ("acme/tools", Fault.NOT_FOUND, False),
        ("acme/tools:1", Fault.TOKEN_REFUSED, False),
        ("acme/tools:1", Fault.NOT_FOUND, True),
    ],
)
def test_a_refusal_is_one_of_all_generations_unless_only_one_is_missing(
    node: Node, refused: str, fault: Fault, others_stay: bool
) -> None:
    references = ("acme/tools", "acme/tools:1", "acme/tools:2")
    wants = {text: Want(Reference.parse(text), Mode.RUN, "1" * 40) for text in references}
    strangers = [Want(Reference.parse("acme/tools"), Mode.RUN, other) for other in (None, "2" * 40)]
    strangers.append(Want(Reference.parse("acme/other"), Mode.RUN, "1" * 40))
    for want in (*wants.values(), *strangers):
        node.ask(want)
        node.settled(want)
    node.raising(Missing(fault, ""))
    node.ask(wants[refused], not_before=time.monotonic())
    node.failure(wants[refused])
    there = {text: node.catalogue.standing(want).environment is not None for text, want in wants.items()}
    assert there == {text: others_stay and text != refused for text in references}
    assert all(node.catalogue.standing(want).environment for want in strangers)


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.NO_SPACE, Fault.BROKEN, Fault.UNSUPPORTED_SYSTEM])
def test_any_other_failure_leaves_what_was_there(node: Node, fault: Fault) -> None:
    node.ask()
    before = node.settled()
    node.raising(Missing(fault, ""))
    node.ask(not_before=time.monotonic())
    after = node.settled()
    assert (after.environment, after.checked) == (before.environment, before.checked)


def test_a_success_ends_an_earlier_failure(node: Node) -> None:
    node.raising(Missing(Fault.UNREACHABLE, ""))
    node.ask()
    node.settled()
    node.source.act = lambda: None
    node.ask()
    assert node.settled().failure is None


def test_what_should_not_happen_is_published_and_reported_and_the_worker_lives_on(node: Node) -> None:
    node.realiser = node.made(node.source, width=1)
    for _ in range(3):
        node.raising(RuntimeError("a secret in a message"))
        node.ask()
        failure = node.failure()
        assert (failure.fault, failure.detail) == (Fault.BROKEN, "internal error: RuntimeError")
    assert [type(error) for error in node.heard.errors] == [RuntimeError] * 3
    node.source.act = lambda: None
    node.ask()
    assert node.settled().environment is not None


def test_who_came_too_late_is_served_after_an_attempt_that_failed(node: Node) -> None:
    node.source.may_go.clear()
    node.raising(RuntimeError())
    node.ask()
    while not node.source.fetches:
        time.sleep(0.002)
    node.ask(not_before=time.monotonic())
    node.source.may_go.set()
    node.settled()
    assert len(node.source.fetches) == 2


@pytest.mark.parametrize(
    ("number", "fault"), [(errno.ENOSPC, Fault.NO_SPACE), (errno.EDQUOT, Fault.NO_SPACE), (errno.EIO, Fault.BROKEN)]
)
def test_what_the_disk_says_when_the_view_is_laid_out_is_understood(
    node: Node, monkeypatch: pytest.MonkeyPatch, number: int, fault: Fault
) -> None:
    def fails(*_: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(realising, "lay_out", fails)
    node.ask()
    assert node.failure().fault is fault


def test_an_environment_that_is_none_is_broken(node: Node) -> None:
    node.source.path = render.add_path(node.store.directory, "empty", {"requisites.txt": ""})
    node.ask()
    failure = node.failure()
    assert failure.fault is Fault.BROKEN
    assert "no rendered Flox environment" in failure.detail


def test_texts_of_a_source_are_made_harmless(node: Node) -> None:
    node.raising(Missing(Fault.BROKEN, "\x1b[2J\n" + "x" * 10_000))
    node.ask()
    detail = node.failure().detail
    assert detail.isprintable()
    assert len(detail) <= 400


# ------------------------------------------------------------------------------------- several sources, this node


def test_the_first_source_that_has_it_wins(node: Node) -> None:
    second = Playing(node.path)
    node.realiser = node.made(node.source, second)
    node.ask()
    node.settled()
    assert second.fetches == []
    node.raising(Missing(Fault.NOT_FOUND, ""))
    node.ask(OTHER)
    assert node.settled(OTHER).environment is not None


def test_a_source_that_fails_otherwise_is_not_passed_over(node: Node) -> None:
    second = Playing(node.path)
    node.realiser = node.made(node.source, second)
    node.raising(Missing(Fault.UNREACHABLE, ""))
    node.ask()
    assert node.failure().fault is Fault.UNREACHABLE
    assert second.fetches == [], "another environment of the same name would be a surprise"


def test_a_local_request_asks_nobody(node: Node) -> None:
    node.ask(local=True)
    standing = node.settled()
    assert standing.environment is None
    assert standing.looked > NOTHING.looked
    assert (node.source.fetches, node.heard.began) == ([], [])


def test_a_local_request_finds_what_lies_here_with_the_age_of_its_check(node: Node) -> None:
    node.source.here = Found(node.path, None, 5.0)
    node.ask(local=True)
    standing = node.settled()
    assert standing.environment is not None
    assert standing.checked == 5.0


def test_a_local_request_sees_what_has_come_since(node: Node) -> None:
    node.ask(local=True)
    node.settled()
    node.source.here = Found(node.path, None, 5.0)
    node.ask(local=True)
    until = time.monotonic() + 5
    while node.settled().environment is None:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_what_lies_here_is_not_fetched_where_its_check_is_new_enough(node: Node) -> None:
    node.source.here = Found(node.path, None, time.monotonic())
    node.ask(not_before=0)
    assert node.settled().environment is not None
    assert node.source.fetches == []


def test_what_lies_here_serves_while_a_newer_check_fails(node: Node) -> None:
    node.source.here = Found(node.path, None, 5.0)
    node.raising(Missing(Fault.UNREACHABLE, ""))
    node.ask(not_before=time.monotonic())
    standing = node.settled()
    assert standing.environment is not None
    assert standing.checked == 5.0
    assert standing.failure is not None


def test_what_lies_here_and_is_of_no_use_is_fetched_anew(node: Node) -> None:
    broken = render.add_path(node.store.directory, "empty", {"requisites.txt": ""})
    node.source.here = Found(broken, None, time.monotonic())
    node.ask()
    environment = node.settled().environment
    assert environment is not None
    assert environment.store_path == node.path


def test_a_link_that_moved_on_gives_new_pods_the_new_one(tmp_path: Path) -> None:
    node = Node(tmp_path)
    links = tmp_path / "environments/acme/tools"
    links.mkdir(parents=True)
    (links / "live").symlink_to(str(node.path))
    node.realiser = node.made(DirectorySource(str(tmp_path / "environments"), node.store))
    node.ask()
    first = node.settled().environment
    second = render.render(node.store.directory, "acme", "tools", vars={"V": "2"})
    (links / "live").unlink()
    (links / "live").symlink_to(str(second))
    node.ask(not_before=time.monotonic())
    after = node.settled().environment
    assert first is not None
    assert after is not None
    assert (first.store_path, after.store_path) == (node.path, second)
    node.realiser.close(5)


def test_closing_ends_what_is_under_way(node: Node) -> None:
    node.source.may_go.clear()
    node.ask()
    began = time.monotonic()
    node.realiser.close(5)
    assert time.monotonic() - began < 2


# -------------------------------------------------------------------------------------------------- the catalogue


def test_who_waits_hears_of_any_publication() -> None:
    catalogue = Catalogue()
    seen = catalogue.news
    threading.Timer(0.1, lambda: catalogue.publish(TOOLS, lambda standing: standing)).start()
    assert catalogue.changed(seen, 5)
    assert catalogue.changed(seen, 0), "news from before the wait count too"
    assert not catalogue.changed(catalogue.news, 0.05)


def test_a_pod_keeps_what_it_has_and_forgets_all_when_it_goes(node: Node) -> None:
    node.ask()
    environment = node.settled().environment
    assert environment is not None
    catalogue = node.catalogue
    catalogue.add_pod("sandbox", PodRecord("uid", 1.0))
    catalogue.add_pod("sandbox", PodRecord("uid", 2.0))
    catalogue.publish_tokens("sandbox", {"v": None})
    catalogue.keep("sandbox", TOOLS, environment)
    record = catalogue.pod("sandbox")
    assert record == PodRecord("uid", 1.0, {"v": None}, {TOOLS: environment}), "the first time it was seen counts"
    catalogue.drop_pod("sandbox")
    catalogue.keep("sandbox", TOOLS, environment)
    catalogue.publish_tokens("sandbox", {})
    assert catalogue.pod("sandbox") is None, "what comes late brings no pod back"


def test_a_new_catalogue_takes_over_pods_but_not_what_was_found() -> None:
    old, new = Catalogue(), Catalogue()
    old.add_pod("one", PodRecord("1", 1.0))
    old.add_pod("two", PodRecord("2", 1.0))
    old.publish(TOOLS, lambda _: Standing(looked=1.0))
    new.add_pod("two", PodRecord("2", 9.0))
    new.adopt(old)
    assert new.pod("one") == PodRecord("1", 1.0)
    assert new.pod("two") == PodRecord("2", 9.0)
    assert new.standing(TOOLS) is NOTHING


def test_what_lies_here_does_not_wait_for_pulls_that_hang(node: Node) -> None:
    node.source.may_go.clear()
    hanging = [Want(Reference.parse(f"acme/slow{number}"), Mode.RUN, None) for number in range(4)]
    for want in hanging:
        node.ask(want)
    deadline = time.monotonic() + 10
    while len(node.source.fetches) < 2 or node.source.looks < len(hanging):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    node.source.here = Found(node.path, None, time.monotonic())
    node.ask(OTHER, local=True)
    assert node.settled(OTHER).environment is not None
    assert all(node.catalogue.standing(want).since is not None for want in hanging)


def test_source_on_this_node_is_never_waited_for_behind_pulls(node: Node) -> None:
    node.source.is_local = True
    node.source.here = Found(node.path, None, time.monotonic())
    local = node.made(node.source)
    local.ask(Fetch(OTHER, None, 0, False, True))
    assert node.settled(OTHER).environment is not None
    node.source.here = Found(node.path, None, time.monotonic())
    local.ask(Fetch(OTHER, None, node.source.here.checked, False, True))
    assert node.settled(OTHER).checked == node.source.here.checked
    assert not node.source.fetches
    local.close(5)


def test_source_that_goes_first_is_asked_before_the_directory_of_this_node(node: Node) -> None:
    hub, directory = Playing(node.path), Playing(node.path, is_local=True)
    directory.here = Found(node.path, 7, time.monotonic())
    both = node.made(hub, directory)
    both.ask(Fetch(OTHER, None, 0, False, True))
    environment = node.settled(OTHER).environment
    assert environment is not None
    assert environment.reference.generation is None
    assert (len(hub.fetches), directory.looks) == (1, 0)
    both.close(5)


def test_directory_that_goes_first_never_waits_for_pulls(node: Node) -> None:
    def nothing() -> None:
        raise Missing(Fault.NOT_FOUND, "not here")

    hub, directory = Playing(node.path), Playing(node.path, is_local=True, act=nothing)
    hub.may_go.clear()
    both = node.made(directory, hub)
    for number in range(3):
        both.ask(Fetch(Want(Reference.parse(f"acme/slow{number}"), Mode.RUN, None), None, 0, False, True))
    deadline = time.monotonic() + 10
    while len(hub.fetches) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for _ in range(2):  # also when it was looked at before
        directory.here = Found(node.path, None, time.monotonic())
        both.ask(Fetch(OTHER, None, directory.here.checked, False, True))
        assert node.settled(OTHER).checked == directory.here.checked
    both.close(5)
