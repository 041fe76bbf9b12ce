"""What the Flox CLI leaves and says is understood, what cuts it short is made good, and no token gets out of it."""

import errno
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from nri_flox.environments.floxhub import Cli, FloxHubSource
from nri_flox.environments.source import Found, Missing
from nri_flox.environments.supply import StateDir
from nri_flox.flox.environment import Fault
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.store import Store
from nri_flox.flox.token import Lent, Token
from tests.standins import nixstore
from tests.standins.floxhub import FLOX, SYSTEM, Failure, FloxHub, Stage
from tests.standins.nixstore import NixStore, path_of

TOOLS = "acme/tools"
VAULT = "acme/vault"
SECRET = "flox_pat_of-the-tests-0123456789"

VERSIONS = ("1.7.6", "1.14.1")


def lent(secret: str = SECRET) -> Lent:
    return Lent(f"{len(secret):040x}", Token(secret), 'file "floxhub-token" of volume "v"')


class Node:
    """A FloxHub, and a source that pulls from it. Without a real Nix store, store paths are empty files."""

    def __init__(self, directory: Path, nix: NixStore | None = None) -> None:
        self.directory = directory
        self.nix = nix
        self.hub = FloxHub(directory / "hub", nix)
        self.store_dir = nix.store_dir if nix else directory / "store"
        self.store_dir.mkdir(exist_ok=True)
        self.state = directory / "state"
        self.state.mkdir()
        self.now = 1_000_000.0
        self.source = self.restarted()
        self.run = self.publish(TOOLS, "one")

    def restarted(
        self, *, timeout: float = 20, user: str | None = None, environment: Mapping[str, str] | None = None
    ) -> FloxHubSource:
        cli = Cli(str(FLOX), user, {**self.hub.environment, **(environment or {})}, timeout)
        return FloxHubSource(str(self.state), Store(str(self.store_dir)), cli, wall_clock=lambda: self.now)

    def environment(self, text: str) -> str:
        tree = {"manifest.lock": text}
        if self.nix is not None:
            return self.nix.add("environment-run", tree)
        path = path_of("environment-run", tree)
        (self.store_dir / Path(path).name).touch()
        return path

    def publish(self, reference: str, text: str, *tokens: str) -> str:
        """A new generation, which is live; with `tokens` a private one."""
        run = self.environment(text)
        self.hub.publish(reference, run=run, private_to=tokens or None)
        return run

    def fetch(
        self, reference: str = TOOLS, token: Lent | None = None, mode: Mode = Mode.RUN, *, metrics: bool = True
    ) -> Found:
        return self.source.fetch(Reference.parse(reference), mode, token, metrics=metrics)

    def path(self, reference: str = TOOLS, token: Lent | None = None, mode: Mode = Mode.RUN) -> str:
        return str(self.fetch(reference, token, mode).store_path)

    def look(self, reference: str = TOOLS, token: Lent | None = None, mode: Mode = Mode.RUN) -> str | None:
        found = self.source.look(Reference.parse(reference), mode, token)
        return None if found is None else str(found.store_path)

    def missing(self, reference: str = TOOLS, token: Lent | None = None) -> Missing:
        with pytest.raises(Missing) as raised:
            self.fetch(reference, token)
        return raised.value

    def argv(self) -> list[list[str]]:
        """The words that the CLI was called with, without directories."""
        return [[word for word in one.argv if not word.startswith("/")] for one in self.hub.invocations()]

    def record(self, reference: str = TOOLS, token: Lent | None = None) -> Path:
        owner_name, _, generation = reference.partition(":")
        credential = token.credential if token else "public"
        return (
            self.state
            / "floxhub"
            / credential
            / "environments"
            / owner_name
            / f"{generation or 'live'}-run"
            / "pulled.json"
        )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    assert made.hub.alarms() == []


@pytest.fixture
def stocked(tmp_path: Path) -> Iterator[Node]:
    """With a real Nix store."""
    if not nixstore.available():
        pytest.skip("needs nix-store (Debian's package nix-bin)")
    made = Node(tmp_path, NixStore(tmp_path / "nix"))
    yield made
    assert made.hub.alarms() == []


# ----------------------------------------------------------------------------------------------------- pulling


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pull_gives_the_output_of_the_mode(node: Node, version: str) -> None:
    run, dev = node.environment("run"), node.environment("dev")
    node.hub.publish("acme/both", run=run, dev=dev)
    node.hub.knob(version=version)
    assert node.path("acme/both") == run
    assert node.path("acme/both", mode=Mode.DEV) == dev


def test_the_first_pull_names_the_environment_and_the_next_one_updates(node: Node) -> None:
    node.fetch()
    node.fetch()
    assert node.argv() == [["pull", "--dir", TOOLS], ["pull", "--dir"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_update_brings_the_live_generation(node: Node, version: str) -> None:
    node.hub.knob(version=version)
    assert node.path() == node.run
    two = node.publish(TOOLS, "two")
    assert node.path() == two
    assert node.path() == two


def test_a_check_begins_when_it_is_asked_for(node: Node) -> None:
    node.hub.knob(delay=0.2)
    began = time.monotonic()
    assert began <= node.fetch().checked < began + 0.2


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pinned_generation_stays_what_it_is(node: Node, version: str) -> None:
    node.hub.knob(version=version)
    node.publish(TOOLS, "two")
    found = node.fetch(f"{TOOLS}:1")
    assert (str(found.store_path), found.generation) == (node.run, 1)
    node.publish(TOOLS, "three")
    assert node.path(f"{TOOLS}:1") == node.run
    assert node.argv()[0] == ["pull", "--copy", "--generation", "1", "--dir", TOOLS]


def test_an_upgrade_of_the_cli_that_renames_links_is_survived(node: Node) -> None:
    node.hub.knob(version="1.12.0")
    node.fetch()
    node.hub.knob(version="1.14.1")
    assert node.path() == node.run
    two = node.publish(TOOLS, "two")
    assert node.path() == two


def test_two_environments_of_one_owner_and_one_credential_are_pulled_at_once(node: Node) -> None:
    other = node.publish("acme/other", "other")
    node.hub.knob(delay=0.2)
    found: dict[str, str] = {}
    workers = [
        threading.Thread(target=lambda name=name: found.update({name: node.path(name)}))
        for name in (TOOLS, "acme/other")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {TOOLS: node.run, "acme/other": other}


def test_the_cli_runs_alone_and_with_what_it_needs_only(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOX_FLOXHUB_TOKEN", "KUBECONFIG", "PYTHONPATH", "NOTIFY_SOCKET", "HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "of the service")
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    node.fetch()
    (call,) = node.hub.invocations()
    assert call.own_group
    assert call.inherited == []
    assert call.token is None
    assert {"HOME", "TMPDIR", "XDG_DATA_HOME", "FLOX_STATE_DIR", "PATH", "https_proxy"} <= set(call.environment)
    assert not {"KUBECONFIG", "PYTHONPATH", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR"} & set(call.environment)
    assert call.home.startswith(str(node.state))


def test_metrics_are_off_for_a_pull_that_says_so(node: Node) -> None:
    node.fetch(metrics=True)
    node.fetch(metrics=False)
    assert [call.metrics_disabled for call in node.hub.invocations()] == [False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_the_cli_runs_as_a_user_who_can_work_below_the_state_directory(node: Node) -> None:
    from nri_flox.environments.command import identity

    for place in (node.directory, *node.directory.parents[:3]):
        place.chmod(place.stat().st_mode | 0o011)  # pytest's own are for their owner alone
    StateDir(str(node.state)).release()
    node.source = node.restarted(user="nobody")
    assert node.path(token=lent()) == node.run
    two = node.publish(TOOLS, "two")
    assert node.path(token=lent()) == two
    uid, _ = identity("nobody")
    assert {call.uid for call in node.hub.invocations()} == {uid}
    assert node.record(TOOLS, lent()).stat().st_uid == 0, "the proof is not for the CLI's user to write"


# ---------------------------------------------------------------------------------------------------- failures

FIRST: list[tuple[Failure, Fault]] = [
    ("network", Fault.UNREACHABLE),
    ("refused", Fault.UNREACHABLE),
    ("timeout", Fault.UNREACHABLE),
    ("missing", Fault.NOT_FOUND),
    ("denied", Fault.TOKEN_REFUSED),
    ("unsupported", Fault.UNSUPPORTED_SYSTEM),
    ("no-space", Fault.NO_SPACE),
    ("build", Fault.BROKEN),
    ("garbage", Fault.BROKEN),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("failure", "fault"), FIRST)
def test_what_the_cli_says_at_a_first_pull_is_understood(
    node: Node, failure: Failure, fault: Fault, version: str
) -> None:
    node.hub.knob(fail=failure, version=version)
    missing = node.missing(token=lent())
    assert missing.fault is fault
    assert str(missing).isprintable()
    assert len(str(missing)) < 500


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("failure", "fault"), FIRST)
def test_what_the_cli_says_at_an_update_is_understood(node: Node, failure: Failure, fault: Fault, version: str) -> None:
    node.hub.knob(version=version)
    node.fetch(token=lent())
    node.publish(TOOLS, "two")
    node.hub.knob(fail=failure, version=version)
    assert node.missing(token=lent()).fault is fault


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("failure", "fault"), FIRST)
def test_what_the_cli_says_at_a_pull_after_an_earlier_one_is_understood(
    node: Node, failure: Failure, fault: Fault, version: str
) -> None:
    node.hub.knob(version=version)
    node.fetch(token=lent())
    node.record(TOOLS, lent()).unlink()
    node.hub.knob(fail=failure, version=version)
    assert node.missing(token=lent()).fault is fault


@pytest.mark.parametrize("version", VERSIONS)
def test_an_expired_token_is_a_definite_answer(node: Node, version: str) -> None:
    node.hub.knob(fail="expired", version=version)
    assert node.missing(token=lent()).fault in (Fault.TOKEN_REFUSED, Fault.NOT_FOUND)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_environment_that_was_never_there_is_not_found(node: Node, version: str) -> None:
    node.hub.knob(version=version)
    assert node.missing("acme/nothing").fault is Fault.NOT_FOUND
    assert node.missing("nobody/nothing").fault is Fault.NOT_FOUND
    assert node.missing("acme/nothing", lent()).fault is Fault.NOT_FOUND


def test_a_generation_that_is_not_there_cannot_be_had(node: Node) -> None:
    assert "generation 7 not found" in str(node.missing(f"{TOOLS}:7"))


def test_a_system_that_is_not_listed_is_named(node: Node) -> None:
    node.hub.publish("acme/mac", run=node.environment("mac"), systems=["aarch64-darwin"])
    missing = node.missing("acme/mac")
    assert (missing.fault, str(missing)) == (Fault.UNSUPPORTED_SYSTEM, SYSTEM)


def test_a_private_environment_without_a_token_is_not_found(node: Node) -> None:
    node.publish(VAULT, "secret", SECRET)
    assert node.missing(VAULT).fault is Fault.NOT_FOUND


def test_a_refusal_without_a_token_is_not_blamed_on_one(node: Node) -> None:
    node.hub.knob(fail="denied")
    assert node.missing().fault is Fault.NOT_FOUND


def test_a_cli_that_is_not_there_is_said(node: Node) -> None:
    cli = Cli("/nowhere/flox", None, {}, 5)
    node.source = FloxHubSource(str(node.state), Store(str(node.store_dir)), cli)
    missing = node.missing()
    assert missing.fault is Fault.BROKEN
    assert "/nowhere/flox" in str(missing)


def test_a_user_that_is_not_there_is_said(node: Node) -> None:
    node.source = node.restarted(user="no-such-user")
    assert "flox.user" in str(node.missing())


def test_a_pull_that_hangs_is_ended_with_all_that_it_started(node: Node) -> None:
    node.source = node.restarted(timeout=1)
    node.hub.knob(hang="ask", ignore_sigterm=True, child=60)
    began = time.monotonic()
    missing = node.missing()
    assert time.monotonic() - began < 3
    assert missing.fault is Fault.UNREACHABLE
    assert "took longer than 1 s" in str(missing)
    (call,) = node.hub.invocations()
    time.sleep(0.1)
    for pid in (call.pid, call.child):
        assert not alive(pid)


def test_a_child_that_the_cli_leaves_behind_keeps_nothing(node: Node) -> None:
    node.hub.knob(child=60)
    began = time.monotonic()
    assert node.path() == node.run
    assert time.monotonic() - began < 5
    time.sleep(0.1)
    assert not alive(node.hub.invocations()[0].child)


def test_stopping_ends_a_pull(node: Node) -> None:
    node.hub.knob(hang="ask")
    failed: list[Missing] = []
    worker = threading.Thread(target=lambda: failed.append(node.missing()))
    worker.start()
    time.sleep(0.3)
    node.source.stop()
    worker.join(3)
    assert not worker.is_alive()
    assert len(failed) == 1


def alive(pid: int | None) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_disk_that_is_full_when_the_record_is_written_is_no_space(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert node.missing().fault is Fault.NO_SPACE
    monkeypatch.undo()
    assert node.look() is None
    assert node.path() == node.run


# ------------------------------------------------------------------------------------------- what is remembered


def test_after_a_restart_what_was_pulled_is_known_and_how_old_the_check_is(node: Node) -> None:
    node.fetch()
    node.now += 60
    node.source = node.restarted()
    found = node.source.look(Reference.parse(TOOLS), Mode.RUN, None)
    assert found is not None
    assert str(found.store_path) == node.run
    assert 59 < time.monotonic() - found.checked < 62


def test_looking_asks_nobody(node: Node) -> None:
    assert node.look() is None
    node.fetch()
    assert node.look() == node.run
    assert len(node.hub.invocations()) == 1


def test_with_a_clock_that_was_set_back_an_earlier_check_proves_nothing(node: Node) -> None:
    node.fetch()
    node.now -= 60
    found = node.source.look(Reference.parse(TOOLS), Mode.RUN, None)
    assert found is not None
    assert found.checked == float("-inf")


def test_what_left_the_store_is_not_known(node: Node) -> None:
    node.fetch()
    (node.store_dir / Path(node.run).name).unlink()
    assert node.look() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version": 1, "checked": 1, "outputs": {}, "directory": 7}',
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 2, "checked": 1, "outputs": {}, "directory": "pull-1"}',
        b'{"version": 1, "checked": "x", "outputs": {}, "directory": "pull-1"}',
        b'{"version": 1, "checked": 1, "outputs": {"run": "/etc/passwd"}, "directory": "pull-1"}',
        b'{"version": 1, "checked": 1, "outputs": {"run": 7}, "directory": "pull-1"}',
        b'{"version": 1, "checked": 1, "outputs": {"odd": "x"}, "directory": "pull-1"}',
        b'{"version": 1, "checked": 1, "outputs": [], "directory": "pull-1"}',
        b'{"version": 1, "checked": 1, "outputs": {}, "directory": "../../../.."}',
        b'{"version": 1, "checked": 1, "outputs": {}}',
        b"[" * 60_000,
        b" " * 100_000 + b"{}",
    ],
)
def test_a_record_that_is_damaged_is_none_and_is_mended(node: Node, content: bytes) -> None:
    node.fetch()
    node.record().write_bytes(content)
    assert node.look() is None
    assert node.path() == node.run
    assert node.look() == node.run


def test_a_record_cut_short_in_writing_is_not_taken(node: Node) -> None:
    node.fetch()
    whole = node.record().read_bytes()
    node.record().with_name("pulled.json.new").write_bytes(whole[: len(whole) // 2])
    assert node.look() == node.run
    assert node.path() == node.run


@pytest.mark.parametrize("failure", ["missing", "denied"])
@pytest.mark.parametrize("first", [False, True])
def test_a_definite_refusal_is_remembered_at_once(node: Node, failure: Failure, first: bool) -> None:
    node.publish(VAULT, "secret", SECRET)
    node.fetch(VAULT, lent())
    if first:
        node.record(VAULT, lent()).with_name("unsound").touch()  # the next pull is a new one
    node.hub.knob(fail=failure)
    node.missing(VAULT, lent())
    assert node.look(VAULT, lent()) is None
    node.source = node.restarted()
    assert node.look(VAULT, lent()) is None


def test_a_revoked_token_is_a_definite_refusal(node: Node) -> None:
    node.publish(VAULT, "secret", SECRET)
    node.fetch(VAULT, lent())
    node.hub.permit(VAULT, ["another"])
    assert node.missing(VAULT, lent()).fault is Fault.TOKEN_REFUSED
    assert node.look(VAULT, lent()) is None


def test_a_refusal_is_one_of_all_generations_unless_only_one_is_missing(node: Node) -> None:
    node.publish(VAULT, "secret", SECRET)
    for reference in (VAULT, f"{VAULT}:1"):
        node.fetch(reference, lent())
    node.missing(f"{VAULT}:7", lent())
    assert node.look(VAULT, lent())
    assert node.look(f"{VAULT}:1", lent())
    node.hub.permit(VAULT, ["another"])
    node.missing(VAULT, lent())
    assert node.look(f"{VAULT}:1", lent()) is None


def test_an_environment_that_became_private_is_gone_for_all_without_a_token(node: Node) -> None:
    node.fetch()
    node.hub.permit(TOOLS, [SECRET])
    assert node.missing().fault is Fault.NOT_FOUND
    assert node.look() is None


@pytest.mark.parametrize("failure", ["network", "no-space", "unsupported", "build"])
def test_a_passing_failure_forgets_nothing(node: Node, failure: Failure) -> None:
    node.fetch()
    node.publish(TOOLS, "two")
    node.hub.knob(fail=failure)
    node.missing()
    assert node.look() == node.run


def test_what_one_token_opened_no_other_finds(node: Node) -> None:
    node.publish(VAULT, "secret", SECRET)
    node.fetch(VAULT, lent())
    assert node.look(VAULT, lent()) is not None
    assert node.look(VAULT, lent("another token")) is None
    assert node.look(VAULT, None) is None


def test_a_malformed_token_opens_what_is_public_and_nothing_else(node: Node) -> None:
    node.publish(VAULT, "secret", SECRET)
    node.hub.malform("bad token")
    assert node.path(token=lent("bad token")) == node.run
    assert node.missing(VAULT, lent("bad token")).fault is Fault.NOT_FOUND


# ---------------------------------------------------------------------------------------------- what is cut short


@pytest.mark.parametrize("stage", ["open", "build"])
def test_a_first_pull_that_was_killed_is_made_anew(stocked: Node, stage: Stage) -> None:
    assert stocked.nix is not None
    stocked.nix.gc()
    stocked.hub.knob(TOOLS, kill=stage, times=1)
    assert stocked.missing().fault is Fault.BROKEN
    assert stocked.look() is None
    assert stocked.path() == stocked.run
    assert stocked.nix.verify() == []


@pytest.mark.parametrize("stage", ["open", "build"])
@pytest.mark.parametrize("restart", [False, True])
def test_an_update_that_was_killed_is_not_taken_for_done(stocked: Node, stage: Stage, restart: bool) -> None:
    stocked.fetch()
    two = stocked.publish(TOOLS, "two")
    stocked.hub.knob(TOOLS, kill=stage)
    stocked.missing()
    stocked.hub.knob(TOOLS)
    if restart:
        stocked.source = stocked.restarted()
    assert stocked.path() == two


@pytest.mark.parametrize("failure", ["no-space", "build", "unsupported", "network"])
def test_an_update_that_failed_is_not_taken_for_done(node: Node, failure: Failure) -> None:
    node.fetch()
    two = node.publish(TOOLS, "two")
    node.hub.knob(TOOLS, fail=failure)
    node.missing()
    node.missing()
    node.hub.knob(TOOLS)
    assert node.path() == two


def test_an_update_that_was_stopped_at_the_deadline_is_not_taken_for_done(node: Node) -> None:
    node.fetch()
    two = node.publish(TOOLS, "two")
    node.source = node.restarted(timeout=0.5)
    node.hub.knob(TOOLS, hang="ask")
    node.missing()
    node.hub.knob(TOOLS)
    node.source = node.restarted()
    assert node.path() == two


def test_while_a_new_pull_fails_the_one_before_stays_rooted(stocked: Node) -> None:
    assert stocked.nix is not None
    stocked.fetch()
    stocked.fetch(f"{TOOLS}:1")
    stocked.hub.knob(fail="network")
    for _ in range(3):
        stocked.missing()
        stocked.missing(f"{TOOLS}:1")
    stocked.nix.gc()
    assert stocked.nix.is_valid(stocked.run)
    assert stocked.look() == stocked.run


def test_the_directory_of_a_pull_that_was_replaced_goes(node: Node) -> None:
    node.fetch()
    node.record().with_name("unsound").touch()
    node.fetch()
    assert pulls(node) == [json.loads(node.record().read_text())["directory"]]
    node.record().unlink()
    node.fetch()
    assert pulls(node) == [json.loads(node.record().read_text())["directory"]]


def pulls(node: Node) -> list[str]:
    return [name for name in os.listdir(node.record().parent) if name != "pulled.json"]


def test_a_cli_that_outlived_a_killed_service_does_no_harm(node: Node) -> None:
    node.hub.knob(TOOLS, delay=1, times=1)
    orphan = threading.Thread(target=node.missing)  # its directory goes while it is at work
    orphan.start()
    while not node.hub.invocations(TOOLS):
        time.sleep(0.01)
    node.source = node.restarted()
    assert node.path() == node.run
    orphan.join()
    assert node.path() == node.run
    assert node.look() == node.run


def test_a_damaged_directory_is_made_anew(node: Node) -> None:
    node.fetch()
    record = json.loads(node.record().read_text())
    (node.record().parent / record["directory"] / ".flox/env.json").unlink()
    assert node.path() == node.run


def test_a_path_that_left_the_store_comes_back(stocked: Node) -> None:
    assert stocked.nix is not None
    stocked.fetch()
    for link in (stocked.nix.state_dir / "gcroots/auto").iterdir():
        link.unlink()
    stocked.nix.gc()
    assert not stocked.nix.is_valid(stocked.run)
    assert stocked.path() == stocked.run
    assert stocked.nix.is_valid(stocked.run)


def test_a_cli_too_old_to_leave_links_is_said_and_works_once_upgraded(node: Node, tmp_path: Path) -> None:
    old = tmp_path / "old-flox"
    remove = 'for last; do :; done; [ ! -d "$3/.flox/run" ] || rm "$3"/.flox/run/*'
    old.write_text(f'#!/bin/sh\n"{FLOX}" "$@" || exit\n{remove}\n')
    old.chmod(0o755)
    node.source = FloxHubSource(
        str(node.state), Store(str(node.store_dir)), Cli(str(old), None, node.hub.environment, 20)
    )
    missing = node.missing()
    assert missing.fault is Fault.BROKEN
    assert "too old" in str(missing)
    assert node.look() is None
    node.source = node.restarted()
    assert node.path() == node.run


# ---------------------------------------------------------------------------------------------------- the token


def holding(directory: Path, text: str) -> list[str]:
    """Names and files below `directory` with `text` in them."""
    found = []
    for place, directories, files in os.walk(directory):
        found += [name for name in (*directories, *files) if text in name]
        for name in files:
            file = Path(place, name)
            if not file.is_symlink() and text.encode() in file.read_bytes():
                found.append(str(file))
    return found


def test_the_token_goes_into_the_clis_env_alone(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    node.publish(VAULT, "secret", SECRET)
    node.fetch(VAULT, lent())
    node.fetch(VAULT, lent())
    for call in node.hub.invocations():
        assert call.token == node.hub.fingerprint(SECRET)
        assert SECRET not in " ".join(call.argv)
    assert holding(node.state, SECRET) == []
    assert SECRET not in caplog.text


@pytest.mark.parametrize("failure", [failure for failure, _ in FIRST] + ["expired"])
def test_no_failure_tells_the_token(node: Node, failure: Failure) -> None:
    node.hub.knob(fail=failure, noise=f"debug: {SECRET}\n✘ ERROR: bad token {SECRET} for you\n")
    missing = node.missing(token=lent())
    told = "".join(traceback.format_exception(missing))
    assert SECRET not in told
    assert holding(node.state, SECRET) == []


@pytest.mark.parametrize(
    "said",
    [
        SECRET,
        f"'{SECRET}'",
        f"unable to access 'https://oauth:{SECRET}@hub.example/'",
        f"{SECRET[:16]}\n  {SECRET[16:]}",
        " ".join(SECRET),
        f"{SECRET[:20]}...",
        SECRET[-20:],
        SECRET * 3,
    ],
    ids=["bare", "quoted", "in a URL", "wrapped", "spaced", "its beginning", "its end", "three times"],
)
def test_no_part_of_the_token_that_the_cli_says_is_told(node: Node, said: str) -> None:
    node.hub.knob(fail="build", noise=f"✘ ERROR: {said}\n")
    missing = node.missing(token=lent())
    joined = "".join(str(missing).split())
    assert not any(SECRET[at : at + 12] in joined for at in range(len(SECRET) - 11))


def test_a_token_that_the_limit_of_the_output_cuts_is_not_told(node: Node) -> None:
    for room in range(64 * 1024 - 300, 64 * 1024 - 100, 10):
        node.hub.knob(fail="build", noise=f"{'x' * 100}{SECRET}{'y' * room}")
        assert SECRET[-12:] not in str(node.missing(token=lent()))


def test_a_token_in_a_line_that_the_limit_cuts_is_not_told(node: Node, tmp_path: Path) -> None:
    cli = tmp_path / "quiet-flox"
    for kept in (len(SECRET), 20, 13):
        cli.write_text(
            f"#!/usr/bin/env python3\nprint('x' * 100 + {SECRET!r} + 'y' * {64 * 1024 - kept - 1})\nexit(1)\n"
        )
        cli.chmod(0o755)
        node.source = FloxHubSource(str(node.state), Store(str(node.store_dir)), Cli(str(cli), None, {}, 20))
        missing = str(node.missing(token=lent()))
        assert SECRET[-12:] not in missing
        assert "left out" in missing or "…" in missing


@pytest.mark.parametrize("how", ["goes well", "fails", "hangs", "is killed", "outlives the service"])
def test_a_file_that_the_cli_makes_of_the_token_does_not_stay(node: Node, tmp_path: Path, how: str) -> None:
    ends = {"goes well": f'exec "{FLOX}" "$@"', "fails": "exit 1", "is killed": "kill -9 $$"}.get(how, "sleep 1000")
    cli = tmp_path / "writing-flox"
    note = 'echo "$FLOX_FLOXHUB_TOKEN" > "$TMPDIR/netrc"; cp "$TMPDIR/netrc" "$FLOX_CACHE_DIR/process"'
    cli.write_text(f"#!/bin/sh\n{note}\n{ends}\n")
    cli.chmod(0o755)
    timeout = 0.5 if how == "hangs" else 20
    settings = Cli(str(cli), None, node.hub.environment, timeout)
    node.source = FloxHubSource(str(node.state), Store(str(node.store_dir)), settings)
    if how == "outlives the service":
        scratch = node.state / "floxhub" / lent().credential / "scratch-0"
        scratch.mkdir(parents=True)
        (scratch / "netrc").write_text(SECRET)
        node.restarted()
    elif how == "goes well":
        assert node.path(token=lent()) == node.run
    else:
        node.missing(token=lent())
    assert holding(node.state, SECRET) == []


def test_what_the_cli_says_without_the_token_is_told(node: Node) -> None:
    node.hub.knob(fail="build")
    assert "builder for '/nix/store/hello.drv' failed" in str(node.missing(token=lent()))


def test_a_token_that_is_a_usual_word_does_no_harm(node: Node) -> None:
    node.hub.knob(fail="network")
    assert node.missing(token=lent("Git")).fault is Fault.UNREACHABLE


def test_the_clis_own_things_are_for_its_user_alone(node: Node) -> None:
    node.fetch(token=lent())
    credential = node.state / "floxhub" / lent().credential
    pulled = json.loads(node.record(TOOLS, lent()).read_text())["directory"]
    for place in (credential / "home", node.record(TOOLS, lent()).parent / pulled):
        assert place.stat().st_mode & 0o077 == 0


def test_credentials_on_disk_cannot_be_listed_by_others(node: Node) -> None:
    node.fetch(token=lent())
    assert (node.state / "floxhub").stat().st_mode & 0o077 == 0o011
