"""What a container gets whose image holds nothing, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nri_flox.adjust.decide import Question, decide
from nri_flox.adjust.decision import Accounts, Adjust, Decision, NotReady
from nri_flox.adjust.scaffold import IMAGE_NAME, is_bare, user_of
from nri_flox.config import Config
from nri_flox.flox.accounts import User
from nri_flox.flox.environment import PodRecord, Standing
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.nri_pb2 import Container, Mount, PodSandbox
from nri_flox.nri.nri_pb2 import User as NriUser
from tests.adjust.test_decide import BEGAN, NOW, UID, Known, adjustment, environment, text, want

PROGRAMS = (("/bin/sh", "0-bash/bin/bash"), ("/usr/bin/env", "1-coreutils/bin/coreutils"))
ALICE = User(4242, 100, (7, 8))


def asked(
    image: str = "docker.io/flox/empty:1.0.0",
    *,
    runs_as: User | None = None,
    known: Known | None = None,
    config: Config | None = None,
    mounts: tuple[Mount, ...] = (),
) -> Decision:
    provided = replace(environment(), programs=PROGRAMS)
    known = known or Known(
        {want(): Standing(environment=provided, checked=BEGAN)},
        PodRecord(UID, BEGAN, tokens={}),
        {None: "/state/accounts/unknown", ALICE: "/state/accounts/alice"},
    )
    user = None
    if runs_as:
        user = NriUser(uid=runs_as.uid, gid=runs_as.gid, additional_gids=runs_as.additional_gids)
    container = Container(name="main", annotations={IMAGE_NAME: image}, user=user, mounts=mounts)
    pod = PodSandbox(id="sandbox", uid=UID, annotations={"flox.dev/environment": "acme/tools"})
    return decide(
        Question(pod, container, NOW), known, config or Config(), Capabilities.of("containerd", "1.7.24"), NOW
    )


def scaffold(decision: Decision) -> dict[str, Mount]:
    assert isinstance(decision, Adjust), decision
    return {
        mount.destination: mount for mount in adjustment(decision).mounts if not mount.destination.startswith("/nix")
    }


@pytest.mark.parametrize(
    ("image", "bare"),
    [
        ("docker.io/flox/empty:1.0.0", True),
        ("flox/empty", True),
        ("flox/empty:1.0.0", True),
        ("registry.local:5000/flox/empty", True),
        ("registry.local:5000/mirror/of/flox/empty:2", True),
        (f"flox/empty@sha256:{'0' * 64}", True),
        (f"docker.io/flox/empty:1.0.0@sha256:{'0' * 64}", True),
        ("docker.io/notflox/empty", False),
        ("docker.io/xflox/empty", False),
        ("flox/empty/more", False),
        ("flox/emptyish:1", False),
        ("empty:1", False),
        (f"sha256:{'0' * 64}", False),
        ("", False),
    ],
)
def test_image_is_known_in_any_registry_and_by_any_tag_or_digest(image: str, bare: bool) -> None:
    assert is_bare(image, ("flox/empty",)) is bare


@pytest.mark.parametrize(
    ("pattern", "image", "bare"),
    [
        ("acme/base:1", "docker.io/acme/base:1", True),
        ("acme/base:1", "docker.io/acme/base:2", False),
        ("acme/empty-*", "ghcr.io/acme/empty-gpu:3", True),
        ("scratch", "localhost:5000/scratch", True),
        ("localhost:5000/scratch", "localhost:5000/scratch:2", True),
    ],
)
def test_node_says_which_images_are_bare(pattern: str, image: str, bare: bool) -> None:
    assert is_bare(image, ("flox/empty", pattern)) is bare


def test_bare_image_gets_a_place_for_files_accounts_and_the_programs_that_scripts_name() -> None:
    found = scaffold(asked())
    assert {place: mount.source for place, mount in found.items()} == {
        "/tmp": "tmpfs",
        "/etc/passwd": "/state/accounts/unknown/passwd",
        "/etc/group": "/state/accounts/unknown/group",
        "/bin/sh": "/nix/var/nri-flox/view/0-bash/bin/bash",
        "/usr/bin/env": "/nix/var/nri-flox/view/1-coreutils/bin/coreutils",
    }
    assert (found["/tmp"].type, "mode=1777" in found["/tmp"].options) == ("tmpfs", True)
    for place in found.keys() - {"/tmp"}:
        assert {"bind", "ro", "nosuid", "nodev"} <= set(found[place].options)


def test_other_images_are_left_as_they_are() -> None:
    assert scaffold(asked("docker.io/library/busybox:1")) == {}


def test_accounts_know_the_user_where_the_runtime_tells() -> None:
    assert scaffold(asked(runs_as=ALICE))["/etc/passwd"].source == "/state/accounts/alice/passwd"


def test_accounts_of_a_new_user_are_written_first() -> None:
    bob = User(5, 5)
    decision = asked(runs_as=bob)
    assert isinstance(decision, NotReady)
    assert decision.need == Accounts(bob)
    assert "accounts" in text(decision)


@pytest.mark.parametrize(
    ("mounted", "left_out"),
    [
        ("/tmp", {"/tmp"}),
        ("//tmp/", {"/tmp"}),
        ("/tmp/deep/down", {"/tmp"}),
        ("/etc/passwd", {"/etc/passwd"}),
        ("/bin/sh", {"/bin/sh"}),
        # A file of ours below a volume would be made in that volume.
        ("/etc", {"/etc/passwd", "/etc/group"}),
        ("/usr", {"/usr/bin/env"}),
        ("/bin/../bin", {"/bin/sh"}),
        # What runtimes mount into every container, and names that only look alike.
        ("/etc/hosts", set()),
        ("/tmpfiles", set()),
        ("/binary", set()),
    ],
)
def test_nothing_goes_over_or_into_what_the_pod_mounts_itself(mounted: str, left_out: set[str]) -> None:
    whole = scaffold(asked()).keys()
    assert whole - scaffold(asked(mounts=(Mount(destination=mounted, source="/data"),))).keys() == left_out


def test_environment_without_a_shell_gives_none() -> None:
    known = Known({want(): Standing(environment=environment(), checked=BEGAN)}, PodRecord(UID, BEGAN, {}), {None: "/a"})
    assert scaffold(asked(known=known)).keys() == {"/tmp", "/etc/passwd", "/etc/group"}


def test_which_images_are_bare_is_the_nodes_to_say() -> None:
    config = Config()
    config = replace(config, activation=replace(config.activation, scaffold_images=("acme/scratch",)))
    assert scaffold(asked(config=config)) == {}
    assert scaffold(asked("acme/scratch", config=config))


def test_root_is_told_from_a_user_of_whom_nothing_is_known() -> None:
    # Both have no field but zeros; only the message's presence differs.
    assert user_of(Container()) is None
    assert user_of(Container(user=NriUser())) == User(0, 0)


def test_containers_that_are_alike_share_an_answer() -> None:
    known = Known(
        {want(): Standing(environment=environment(), checked=BEGAN)},
        PodRecord(UID, BEGAN, {}),
        {None: "/a", ALICE: "/b"},
    )
    assert asked(known=known) is asked(known=known)
    assert asked(known=known) is not asked(known=known, runs_as=ALICE)
