"""The stand-ins of the tests keep their contracts: the Nix store is a real one, the Flox CLI says what it says.

What is held to here is what other tests lean on; the wording is that of the versions of Flox named beside it.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.standins import nixstore
from tests.standins.floxhub import FLOX, SYSTEM, Failure, FloxHub
from tests.standins.nixstore import Link, NixStore, Package, Tree, path_of

pytestmark = pytest.mark.skipif(not nixstore.available(), reason="needs nix-store (Debian's package nix-bin)")

TOOLS = "acme/tools"
TOKEN = "flox_pat_of-the-tests"


@pytest.fixture
def store(tmp_path: Path) -> NixStore:
    return NixStore(tmp_path / "store")


@dataclass
class Node:
    """A FloxHub with one environment, a CLI to pull it with, and a store where the test is about building."""

    directory: Path
    store: NixStore | None = None
    hub: FloxHub = field(init=False)
    run: str = field(init=False)

    def __post_init__(self) -> None:
        self.hub = FloxHub(self.directory / "hub", self.store)
        self.run = self.environment("one")
        self.hub.publish(TOOLS, run=self.run)
        (self.directory / "home").mkdir(mode=0o700)

    def environment(self, text: str) -> str:
        package: Tree = {"bin/hello": "#!/bin/sh\n"}
        hello = path_of("hello", package)
        tree: Tree = {"bin/hello": Link(f"{hello}/bin/hello"), "manifest.lock": f"{text}\n"}
        if self.store is None:
            return path_of("environment-run", tree)
        return self.store.add_all([Package("hello", package), Package("environment-run", tree, (hello,))])[1]

    def start(self, *argv: str, token: str | None = None, **others: str) -> subprocess.Popen[str]:
        environment = {"HOME": str(self.directory / "home"), **self.hub.environment, **others}
        if token is not None:
            environment["FLOX_FLOXHUB_TOKEN"] = token
        return subprocess.Popen(
            [str(FLOX), *argv],
            env=environment,
            cwd=self.directory / "home",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
        )

    def flox(self, *argv: str, token: str | None = None, **others: str) -> tuple[int, str]:
        """Exit status, and stderr."""
        process = self.start(*argv, token=token, **others)
        _, said = process.communicate(timeout=20)
        return process.returncode, said

    def pull(self, into: str = "pulled", reference: str = TOOLS, token: str | None = None) -> tuple[int, str]:
        return self.flox("pull", "--dir", self.place(into), reference, token=token)

    def update(self, into: str = "pulled", token: str | None = None) -> tuple[int, str]:
        return self.flox("pull", "--dir", self.place(into), token=token)

    def place(self, into: str = "pulled") -> str:
        return str(self.directory / into)

    def links(self, into: str = "pulled") -> dict[str, str]:
        run = self.directory / into / ".flox/run"
        return {name: os.readlink(run / name) for name in sorted(os.listdir(run))}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    assert node.hub.alarms() == []


@pytest.fixture
def stocked(tmp_path: Path, store: NixStore) -> Iterator[Node]:
    node = Node(tmp_path, store)
    yield node
    assert node.hub.alarms() == []


# ----------------------------------------------------------------------------------------------- the Nix store


def test_references_are_real_rows_of_nix_database(store: NixStore) -> None:
    library = store.add("library", {"lib/one": "1"})
    tool = store.add("tool", {"bin/tool": "#!/bin/sh\n"}, [library])
    assert store.query_references(tool) == [library]
    assert store.query_requisites(tool) == [library, tool]
    with sqlite3.connect(f"file:{store.database}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT count(*) FROM Refs").fetchone() == (1,)


def test_large_closure_with_a_link_to_the_root_is_quick(store: NixStore) -> None:
    began = time.monotonic()
    environment = store.add_closure("large", 300)
    assert time.monotonic() - began < 5
    closure = store.query_requisites(environment)
    assert len(closure) == 300
    assert [path for path in closure if os.path.islink(store.locate(path))] == [closure[0]]
    assert os.readlink(store.locate(closure[0])) == "/"
    assert store.verify() == []


def test_what_a_link_leads_to_is_never_touched(store: NixStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "file").write_text("")
    before = [os.stat(path) for path in (outside, outside / "file")]
    link = store.add("link", Link(str(outside)))
    tree = store.add("tree", {"deep/link": Link(str(outside))})
    store.gc()
    assert not store.is_valid(link)
    assert not store.is_valid(tree)
    after = [os.stat(path) for path in (outside, outside / "file")]
    assert [(one.st_mode, one.st_mtime_ns) for one in after] == [(one.st_mode, one.st_mtime_ns) for one in before]


def test_paths_added_together_may_refer_to_each_other(store: NixStore) -> None:
    first, second = Package("first", "1"), Package("second", "2")
    paths = store.add_all([Package("first", "1", (path_of("second", "2"),)), second])
    assert paths == [path_of(one.name, one.tree) for one in (first, second)]
    assert store.query_requisites(paths[0]) == [paths[1], paths[0]]


def test_rendered_environment_refers_to_its_requisites(store: NixStore) -> None:
    package = store.add("package", {"bin/x": ""})
    loose = path_of("loose", "not registered")
    store.locate(loose).write_text("not registered")
    tree = {"requisites.txt": f"{package}\n{loose}\n"}
    environment = path_of("environment-run", tree)
    store.locate(environment).mkdir()
    (store.locate(environment) / "requisites.txt").write_text(tree["requisites.txt"])
    store.add_environment(environment)
    assert set(store.query_requisites(environment)) == {package, loose, environment}


def test_collector_spares_roots_and_their_closure(store: NixStore) -> None:
    library = store.add("library", "1")
    kept = store.add("kept", "2", [library])
    lost = store.add("lost", "3", [library])
    store.root("test", kept)
    assert store.gc() == [lost]
    assert not store.is_valid(lost)
    assert store.is_valid(library)


def test_a_changed_file_is_noticed(store: NixStore) -> None:
    path = store.add("tool", {"bin/tool": "#!/bin/sh\n"})
    assert store.verify() == []
    tool = store.locate(path) / "bin/tool"
    tool.chmod(0o755)
    tool.write_text("#!/bin/false\n")
    assert any(f"{path}' was modified" in line for line in store.verify())


def test_database_can_be_read_while_nix_writes(store: NixStore) -> None:
    store.add("seen", "1")
    rows = "".join(f"/nix/store/{number:032d}-x\n{'1' * 64}\n1\n\n0\n" for number in range(5_000))
    loading = ["nix-store", "--store", store.url, "--load-db"]
    with subprocess.Popen(loading, stdin=subprocess.PIPE, text=True) as nix:
        assert nix.stdin is not None
        nix.stdin.write(rows)
        nix.stdin.close()
        counts = set()
        while nix.poll() is None:
            with sqlite3.connect(f"file:{store.database}?mode=ro", uri=True, timeout=0) as database:
                counts.add(database.execute("SELECT count(*) FROM ValidPaths").fetchone()[0])
    assert counts <= {1, 5_001}, "a reader sees all of a registration or nothing of it"


# ------------------------------------------------------------------------------------- what a pull does and leaves


def test_pull_leaves_links_a_lock_and_no_token(stocked: Node) -> None:
    stocked.hub.permit(TOOLS, [TOKEN])
    status, said = stocked.pull(token=TOKEN)
    assert (status, said) == (
        0,
        f"⚡︎ Pulled {TOOLS} from https://hub.flox.dev/.\n\nYou can activate this environment with 'flox activate'\n\n",
    )
    assert stocked.links() == {f"{SYSTEM}.tools-dev": stocked.run, f"{SYSTEM}.tools-run": stocked.run}
    dot_flox = Path(stocked.place()) / ".flox"
    pointer = json.loads((dot_flox / "env.json").read_text())
    assert pointer == {
        "owner": "acme",
        "name": "tools",
        "floxhub_url": "https://hub.flox.dev/",
        "version": 1,
    }
    lock = json.loads((dot_flox / "env.lock").read_text())
    assert lock == {"version": 1, "rev": lock["rev"], "local_rev": None}
    assert (dot_flox / "env/manifest.lock").read_text() == "one\n"
    assert TOKEN not in "".join(path.read_text() for path in stocked.directory.glob("**/*.json"))


def test_pull_fills_a_cold_store_and_keeps_it_from_the_collector(stocked: Node, store: NixStore) -> None:
    assert stocked.run in store.gc()
    assert stocked.pull()[0] == 0
    assert store.is_valid(stocked.run)
    assert store.verify() == []
    assert store.gc() == []
    shutil.rmtree(stocked.place())
    assert stocked.run in store.gc()


def test_update_follows_the_live_generation(node: Node) -> None:
    node.pull()
    assert node.update()[1].endswith(f"! {TOOLS} is already up to date.\n\n")
    second = node.environment("two")
    assert node.hub.publish(TOOLS, run=second) == 2
    status, said = node.update()
    assert status == 0
    assert f"✔ Pulled {TOOLS}" in said
    assert set(node.links().values()) == {second}
    node.hub.make_live(TOOLS, 1)
    assert node.update()[0] == 0
    assert set(node.links().values()) == {node.run}


def test_pinned_generation_is_a_copy_that_knows_no_owner(node: Node) -> None:
    node.hub.publish(TOOLS, run=node.environment("two"))
    exactly = ("--copy", "--generation", "1", "--dir", node.place())
    status, said = node.flox("pull", *exactly, TOOLS)
    assert status == 0
    assert f"⚡︎ Created path environment from {TOOLS}." in said
    assert set(node.links().values()) == {node.run}
    dot_flox = Path(node.place()) / ".flox"
    assert json.loads((dot_flox / "env.json").read_text()) == {"name": "tools", "version": 1}
    assert not (dot_flox / "env.lock").exists()
    assert "is not connected to FloxHub" in node.update()[1]


def test_generation_that_is_not_there(node: Node) -> None:
    exactly = ("--copy", "--generation", "7", "--dir", node.place())
    status, said = node.flox("pull", *exactly, TOOLS)
    assert status == 1
    assert "✘ ERROR: Failed to create a new generation: generation 7 not found" in said
    assert not os.path.exists(node.place("pulled/.flox"))


def test_generation_number_is_told_by_generations_list_alone(node: Node) -> None:
    node.hub.publish(TOOLS, run=node.environment("two"))
    node.pull()
    process = node.start("generations", "list", "--json", "--dir", node.place())
    listed = json.loads(process.communicate(timeout=20)[0])
    assert [number for number, generation in listed.items() if generation["last_live"] is None] == ["2"]


def test_links_are_named_by_version(node: Node) -> None:
    node.hub.knob(version="1.12.2")
    node.pull()
    assert set(node.links()) == {f"{SYSTEM}.tools.dev", f"{SYSTEM}.tools.run"}
    node.hub.knob(version="1.13.0")
    second = node.environment("two")
    node.hub.publish(TOOLS, run=second)
    node.update()
    assert node.links() == {
        f"{SYSTEM}.tools-dev": second,
        f"{SYSTEM}.tools-run": second,
        f"{SYSTEM}.tools.dev": f"{SYSTEM}.tools-dev",
        f"{SYSTEM}.tools.run": f"{SYSTEM}.tools-run",
    }


def test_directory_that_was_pulled_takes_no_name(node: Node) -> None:
    node.pull()
    status, said = node.pull()
    assert status == 1
    assert f'An environment already exists at "{node.place("pulled/.flox")}"' in said
    assert set(node.links().values()) == {node.run}


# --------------------------------------------------------------------------------------------- how a pull fails

UNREACHABLE_FIRST = "✘ ERROR: Failed to open environment metadata: Failed to clone environment: Git failed with"
UNREACHABLE_LATER = "✘ ERROR: Failed to fetch updates for environment: Git failed with"


@pytest.mark.parametrize(
    ("failure", "first", "later"),
    [
        ("network", UNREACHABLE_FIRST, UNREACHABLE_LATER),
        ("refused", "Connection refused", "Connection refused"),
        ("timeout", "timed out", "timed out"),
        ("missing", f"The environment {TOOLS} does not exist.", "Environment not found in FloxHub."),
        (
            "denied",
            "You do not have permission to pull this environment",
            # Flox calls this one a matter of the network too, and gives the hint that goes with it.
            "Failed to fetch updates for environment: access denied",
        ),
        ("expired", f"Could not access the environment {TOOLS}.", "Environment not found in FloxHub."),
        ("unsupported", f"not yet compatible with your system ({SYSTEM})", "Lockfile is not compatible"),
        ("no-space", "No space left on device", "No space left on device"),
        ("build", "Failed to build environment", "Failed to build environment"),
    ],
)
def test_failures_in_flox_words(node: Node, failure: Failure, first: str, later: str) -> None:
    node.hub.knob(TOOLS, fail=failure)
    status, said = node.pull(token=TOKEN)
    assert (status, first in said) == (1, True), said
    assert not os.path.exists(node.place("pulled/.flox")), "a first pull cleans up after itself"
    node.hub.knob(TOOLS)
    node.pull(token=TOKEN)
    node.hub.publish(TOOLS, run=node.environment("two"))
    node.hub.knob(TOOLS, fail=failure)
    status, said = node.update(token=TOKEN)
    assert (status, later in said) == (1, True), said
    assert set(node.links().values()) == {node.run}, "the links of the last whole pull stay"


def test_older_wording_of_the_network(node: Node) -> None:
    node.hub.knob(version="1.7.6")
    node.hub.knob(TOOLS, fail="network")
    said = node.pull()[1]
    assert said.startswith("✘ ERROR: Failed to fetch environment: Failed to clone environment: Git failed with")
    assert "network connectivity" not in said


def test_second_pull_of_a_known_environment_words_a_refusal_as_a_failed_fetch(node: Node) -> None:
    node.hub.permit(TOOLS, [TOKEN])
    node.pull("one", token=TOKEN)
    refused = node.pull("two", token="another")[1]
    assert "Failed to fetch updates for environment: access denied\n\nPlease ensure" in refused
    hidden = node.pull("three")[1]
    assert "Failed to fetch updates for environment: ref not found" in hidden


def test_private_environment_opens_only_with_its_tokens(node: Node) -> None:
    node.hub.permit(TOOLS, [TOKEN])
    assert f"The environment {TOOLS} does not exist." in node.pull()[1]
    assert "You do not have permission" in node.pull(token="another")[1]
    assert node.pull(token=TOKEN)[0] == 0
    node.hub.permit(TOOLS, None)
    assert node.pull("public")[0] == 0


def test_token_that_cannot_be_read_counts_as_none(node: Node) -> None:
    node.hub.malform(TOKEN)
    status, said = node.pull(token=TOKEN)
    assert status == 0, "a public environment is pulled all the same"
    assert said.startswith("✘ ERROR: Your FloxHub token is invalid")


def test_output_may_hold_anything(node: Node) -> None:
    node.hub.knob(TOOLS, fail="garbage")
    said = node.pull(token=TOKEN)[1]
    assert TOKEN in said
    assert {"\x1b", "\x00", "\x07"} < set(said)
    assert len(said) > 300_000


def test_failure_for_a_number_of_calls(node: Node) -> None:
    node.hub.knob(TOOLS, fail="denied", times=2)
    assert [node.pull(into)[0] for into in ("one", "two", "three")] == [1, 1, 0]


def test_killed_first_pull_leaves_a_directory_that_lies(node: Node) -> None:
    node.hub.knob(TOOLS, kill="open", times=1)
    assert node.pull()[0] == -signal.SIGKILL
    assert "already exists" in node.pull()[1]
    assert "is already up to date" in node.update()[1]
    assert not os.path.exists(node.place("pulled/.flox/run")), "up to date, and yet nothing was built"


def test_killed_update_leaves_old_links_that_call_themselves_up_to_date(stocked: Node) -> None:
    stocked.pull()
    stocked.hub.publish(TOOLS, run=stocked.environment("two"))
    stocked.hub.knob(TOOLS, kill="open", times=1)
    assert stocked.update()[0] == -signal.SIGKILL
    status, said = stocked.update()
    assert (status, "is already up to date" in said) == (0, True)
    assert set(stocked.links().values()) == {stocked.run}
    locked = Path(stocked.place(), ".flox/env/manifest.lock").read_text()
    assert locked == "one\n", "the definition is the old one, too: only env.lock knows better"


def test_pull_killed_while_it_builds_leaves_unregistered_paths(stocked: Node, store: NixStore) -> None:
    store.gc()
    stocked.hub.knob(TOOLS, kill="build", times=1)
    assert stocked.pull()[0] == -signal.SIGKILL
    assert any(not name.startswith(".") for name in os.listdir(store.store_dir))
    assert not store.is_valid(stocked.run)
    assert stocked.pull("again")[0] == 0
    assert store.verify() == []


def test_pulls_at_the_same_time_fill_one_store(stocked: Node, store: NixStore) -> None:
    large = store.add_closure("large", 100)
    stocked.hub.publish(TOOLS, run=large)
    store.gc()
    homes = [stocked.directory / f"home-{number}" for number in range(3)]
    for home in homes:
        home.mkdir(mode=0o700)
    pulls = [
        stocked.start("pull", "--dir", stocked.place(home.name + "-pulled"), TOOLS, HOME=str(home)) for home in homes
    ]
    assert [(pull.communicate(timeout=30), pull.returncode)[1] for pull in pulls] == [0, 0, 0]
    assert len(store.query_requisites(large)) == 100
    assert store.verify() == []


def test_update_that_fails_to_build_calls_itself_up_to_date_afterwards(node: Node) -> None:
    node.pull()
    node.hub.publish(TOOLS, run=node.environment("two"))
    node.hub.knob(TOOLS, fail="no-space", times=1)
    assert node.update()[0] == 1
    assert "is already up to date" in node.update()[1]
    assert set(node.links().values()) == {node.run}


def test_child_outlives_the_cli_unless_its_group_is_killed(node: Node) -> None:
    node.hub.knob(TOOLS, child=60)
    process = node.start("pull", "--dir", node.place(), TOOLS)
    assert process.wait(timeout=20) == 0
    (call,) = node.hub.invocations(TOOLS)
    assert call.own_group
    assert call.child is not None
    os.kill(call.child, 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)


def test_hanging_pull_ignores_a_polite_end(node: Node) -> None:
    node.hub.knob(TOOLS, hang="ask", ignore_sigterm=True)
    process = node.start("pull", "--dir", node.place(), TOOLS)
    while not os.path.exists(node.place("pulled/.flox/env.json")):
        time.sleep(0.01)
    time.sleep(0.2)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.2)
    process.kill()
    assert process.wait(timeout=20) == -signal.SIGKILL
    process.communicate()
    assert [call.status for call in node.hub.invocations()] == [None]


def test_generation_published_while_a_pull_runs_is_left_for_the_next(node: Node) -> None:
    second = node.environment("two")
    node.hub.publish(TOOLS, run=second, live=False)
    node.hub.knob(TOOLS, publish=2, times=1)
    node.pull()
    assert set(node.links().values()) == {node.run}
    node.update()
    assert set(node.links().values()) == {second}


# ------------------------------------------------------------------------------ the journal, and what raises alarms


def test_journal_tells_how_the_cli_was_called(node: Node) -> None:
    node.pull(token=TOKEN)
    node.update()
    first, second = node.hub.invocations(TOOLS)
    assert first.argv == ["pull", "--dir", node.place(), TOOLS]
    assert (first.token, second.token) == (node.hub.fingerprint(TOKEN), None)
    assert first.home == str(node.directory / "home")
    assert (first.uid, first.status, first.inherited) == (os.getuid(), 0, [])
    assert first.stopped is not None
    assert first.started < first.stopped < second.started


@pytest.mark.parametrize(
    ("argv", "token", "environment", "alarm"),
    [
        (["activate"], None, {}, "no business"),
        (["activate", "--", "true"], None, {}, "no business"),
        (["pull", "--force", "--dir", "x", TOOLS], None, {}, "--force edits manifests"),
        (["pull", "--dir", TOKEN, TOOLS], TOKEN, {}, "the token in an argument"),
        (["pull", "--dir", "x", TOOLS], TOKEN, {"COPY": TOKEN}, "the token in a second variable"),
        (["pull", "--dir", "x", TOOLS], None, {"HOME": ""}, "HOME is not a private directory"),
        (["pull", "--dir", "x", TOOLS], None, {"HOME": "/"}, "HOME is not a private directory"),
        (["pull", "--dir", "x", TOOLS], None, {"XDG_DATA_HOME": os.path.expanduser("~/x")}, "own home directory"),
    ],
)
def test_alarms(tmp_path: Path, argv: list[str], token: str | None, environment: dict[str, str], alarm: str) -> None:
    node = Node(tmp_path)
    node.hub.knob(fail="network")
    assert node.flox(*argv, token=token, **environment)[0] == 1
    assert any(alarm in text for text in node.hub.alarms()), node.hub.alarms()


def test_terminal_raises_an_alarm(tmp_path: Path) -> None:
    node = Node(tmp_path)
    leader, terminal = os.openpty()
    home = str(tmp_path / "home")
    subprocess.run(
        [FLOX, "pull", "--dir", node.place(), TOOLS],
        env={"HOME": home, **node.hub.environment},
        stdin=terminal,
        capture_output=True,
        check=True,
    )
    os.close(leader)
    os.close(terminal)
    assert any("terminal" in text for text in node.hub.alarms())


def test_cli_runs_under_an_empty_environment(node: Node) -> None:
    version = subprocess.run([FLOX, "--version"], env=node.hub.environment, capture_output=True, text=True, check=False)
    assert (version.returncode, version.stdout, version.stderr) == (0, "1.14.1\n", "")
