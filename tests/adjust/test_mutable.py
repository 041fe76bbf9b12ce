"""A writable /nix: when a container gets it, and what it is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nri_flox.adjust.decide import Question, decide
from nri_flox.adjust.decision import Adjust, Decision, NotReady, Refused, WritableLayer
from nri_flox.adjust.mutable import layer_of
from nri_flox.config import Config, Policy, Rule
from nri_flox.flox.environment import Failure, Fault, Layer, PodRecord, Standing, Tool
from nri_flox.flox.store import StorePath
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.nri_pb2 import Container, LinuxContainer, LinuxNamespace, LinuxPodSandbox, Mount, PodSandbox
from tests.adjust.test_decide import BEGAN, NOW, PATH, UID, Known, adjustment, environment, text, want

READY = Layer("/state/mutable/layers/0")
HERE = environment()
ANNOTATIONS = {"flox.dev/environment": "acme/tools", "flox.dev/nix-mutable": "true"}


def asked(
    layer: Layer | Failure | None = READY,
    *,
    pod_namespaces: tuple[str, ...] = ("pid", "mount"),
    namespaces: tuple[str, ...] = ("pid", "mount"),
    mounts: tuple[Mount, ...] = (),
    env: tuple[str, ...] = (),
    config: Config | None = None,
) -> Decision:
    known = Known({want(): Standing(environment=HERE, checked=BEGAN)}, PodRecord(UID, BEGAN, tokens={}))
    known.ready_layer = layer
    linux = LinuxPodSandbox(namespaces=[LinuxNamespace(type=kind) for kind in pod_namespaces])
    pod = PodSandbox(id="sandbox", uid=UID, namespace="shop", annotations=ANNOTATIONS, linux=linux)
    inside = LinuxContainer(namespaces=[LinuxNamespace(type=kind) for kind in namespaces])
    container = Container(name="main", mounts=mounts, env=env, linux=inside)
    return decide(
        Question(pod, container, NOW), known, config or Config(), Capabilities.of("containerd", "1.7.24"), NOW
    )


def test_what_is_written_goes_to_a_layer_over_the_environments_own_view() -> None:
    decision = asked()
    assert isinstance(decision, Adjust)
    assert decision.layer == READY
    mounts = {mount.destination: mount for mount in adjustment(decision).mounts}
    assert mounts.keys() == {"/nix", "/nix/store", "/nix/nri-flox/cache"}
    assert (mounts["/nix"].type, mounts["/nix"].source) == ("bind", READY.nix)
    assert mounts["/nix/store"].type == "overlay"
    assert {"lowerdir=/nix/var/nri-flox/view", f"upperdir={READY.upper}", f"workdir={READY.work}"} <= set(
        mounts["/nix/store"].options
    )
    for place in ("/nix", "/nix/store"):
        assert {"nosuid", "nodev"} <= set(mounts[place].options)


@pytest.mark.parametrize(
    ("before", "after"),
    [("/bin", f"{PATH}/bin:FLOX:/bin"), ("/nix/own:/bin", f"{PATH}/bin:/nix/own:FLOX:/bin"), ("", f"{PATH}/bin:FLOX")],
)
def test_flox_of_the_node_comes_after_the_environments_own_programs(before: str, after: str) -> None:
    flox = Tool(StorePath.parse(f"/nix/store/{'0' * 32}-flox"), "/nix/var/nri-flox/flox")
    decision = asked(replace(READY, flox=flox), env=(f"PATH={before}",))
    adjusted = adjustment(decision)
    assert {entry.key: entry.value for entry in adjusted.env}["PATH"] == after.replace("FLOX", flox.bin)
    options = next(mount.options for mount in adjusted.mounts if mount.type == "overlay")
    assert "lowerdir=/nix/var/nri-flox/view:/nix/var/nri-flox/flox" in options


def test_each_place_is_mounted_once() -> None:
    places = [mount.destination for mount in adjustment(asked()).mounts]
    assert len(places) == len(set(places))


def test_layer_is_made_first() -> None:
    decision = asked(None)
    assert isinstance(decision, NotReady)
    assert decision.need == WritableLayer(HERE)
    assert "a writable /nix is being made" in text(decision)


def test_pod_with_user_namespace_is_refused() -> None:
    for decision in (asked(pod_namespaces=("pid", "user")), asked(namespaces=("pid", "user"))):
        assert isinstance(decision, Refused)
        assert "hostUsers: false" in text(decision)


def test_node_may_forbid_it() -> None:
    config = replace(Config(), policy=Policy(rule=(Rule(nix_mutable=False),)))
    assert "the policy of this node does not allow" in text(asked(config=config))


def test_failure_is_told_and_tried_again_later() -> None:
    for at, expected in ((NOW - 1, Refused), (NOW - 11, NotReady)):
        decision = asked(Failure(Fault.BROKEN, "DETAIL", "", at))
        assert isinstance(decision, expected)
        assert ("DETAIL" in text(decision)) is (expected is Refused)


def test_full_disk_passes() -> None:
    decision = asked(Failure(Fault.NO_SPACE, "DETAIL", "", NOW))
    assert isinstance(decision, NotReady)
    assert decision.need is None
    assert "no space left on this node (DETAIL)" in text(decision)


def test_layer_is_known_again_by_the_mounts_of_a_container() -> None:
    mounts = adjustment(asked()).mounts
    assert layer_of(Container(mounts=mounts)) == READY


@pytest.mark.parametrize(
    "mount",
    [
        Mount(destination="/nix/store", type="bind", source="/nix/var/nri-flox/view"),
        Mount(destination="/nix/store", type="overlay", options=["lowerdir=/a", "upperdir=/b", "workdir=/c"]),
        Mount(destination="/data", type="overlay", options=[f"upperdir={READY.upper}"]),
    ],
)
def test_other_mounts_are_no_layers(mount: Mount) -> None:
    assert layer_of(Container(mounts=[mount])) is None
