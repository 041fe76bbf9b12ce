"""Environments from FloxHub on a real node: cold, warm, moved on, missing, and what pods are told meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_flox.demo.node import SHELL, Container
from tests.node.floxhub import HubNode, hub_node, outcome, printed, refused, tries
from tests.node.sample import decisions, events
from tests.standins import nixstore
from tests.standins.floxhub import SYSTEM, Failure, Stage

pytestmark = pytest.mark.skipif(not nixstore.available(), reason="needs nix-store (Debian's package nix-bin)")

BUDGET = 0.3  # seconds
POLICY = "flox.dev/pull-policy"


@pytest.fixture(scope="module")
def running(containerd_release: str) -> Iterator[HubNode]:
    with hub_node(containerd_release, {"environments": {"wait_budget": f"{int(BUDGET * 1000)}ms"}}) as made:
        yield made


@pytest.fixture
def world(running: HubNode) -> Iterator[HubNode]:
    yield running
    running.hub.knob()
    running.node.remove_pods()
    assert running.hub.alarms() == [], "the CLI only ever pulls"


def number(world: HubNode, reference: str) -> str:
    """What the live generation prints."""
    return printed(world.pod(reference))


# ------------------------------------------------------------------------------------------------ cold and warm


def test_a_public_environment_needs_no_token(world: HubNode) -> None:
    pod = world.pod(world.publish())
    assert printed(pod).isdecimal()
    assert [call.token for call in world.pulls(pod.sandbox.config.annotations["flox.dev/environment"])] == [None]


def test_an_environment_that_is_only_on_floxhub_is_brought_here_whole(world: HubNode) -> None:
    reference = world.publish()
    world.nix.gc()
    assert printed(world.pod(reference), "echo $NUMBER; readlink $FLOX_ENV/bin/sh").count("\n") == 1
    assert world.nix.verify() == []


def test_a_cold_environment_is_answered_in_time_pulled_once_and_runs_on_a_retry(world: HubNode) -> None:
    reference = world.publish()
    world.nix.gc()
    world.hub.knob(reference, delay=2)
    pod, bystander = world.pod(reference), world.node.pod()
    texts = []
    for tried in tries(pod, ["sh", "-c", "echo $NUMBER"]):
        if isinstance(tried, Container):
            assert tried.finish().stdout.strip().isdecimal()
            break
        texts.append(tried)
        began = time.monotonic()
        bystander.container(["true"], f"c-{len(texts)}", image=SHELL)
        assert time.monotonic() - began < 1.5, "a bystander waits for nobody's environment"
    assert len(texts) >= 3
    assert set(texts) == {
        (
            f'flox: environment {reference} for container "main" is being pulled (for less than 5 s so far); '
            "the container is created when it is here"
        )
    }
    assert max(entry["ms"] for entry in decisions(world.node, pod)) <= (BUDGET + 0.5) * 1000
    assert max(entry["ms"] for entry in decisions(world.node, bystander)) < 250
    assert len(world.pulls(reference)) == 1


def test_many_pods_at_once_are_served_by_one_pull(world: HubNode) -> None:
    reference = world.publish()
    world.hub.knob(reference, delay=0.7)
    pods = [world.pod(reference) for _ in range(5)]
    for pod in pods:
        assert printed(pod).isdecimal()
    # The first is too old for the last of the pods, the second began after all of them.
    assert len(world.pulls(reference)) <= 2


def test_pulling_begins_with_the_sandbox(world: HubNode) -> None:
    reference = world.publish()
    pod = world.pod(reference)
    while not events(world.node, "fetch_ended", environment=reference):
        time.sleep(0.01)
    assert printed(pod).isdecimal()
    assert decisions(world.node, pod)[0]["decision"] == "adjusted"
    assert decisions(world.node, pod)[0]["ms"] < 250
    assert len(world.pulls(reference)) == 1


def test_without_prefetch_pulling_begins_with_the_container(world: HubNode) -> None:
    reference = world.publish()
    with world.node.reconfigured({"environments": {"prefetch": False}}):
        pod = world.pod(reference)
        time.sleep(0.3)
        assert world.pulls(reference) == []
        assert printed(pod).isdecimal()


# --------------------------------------------------------------------------------------- which generation, policy


def test_a_new_pod_gets_the_live_generation_and_a_restart_keeps_its_own(world: HubNode) -> None:
    reference = world.publish()
    old = world.pod(reference)
    first = printed(old)
    world.publish(reference)
    second = number(world, reference)
    assert second != first
    assert printed(old, attempt=1) == first, "a pod keeps its generation for life"


def test_a_pinned_generation_stays_and_is_told(world: HubNode) -> None:
    reference = world.publish()
    first = number(world, reference)
    world.publish(reference)
    pod = world.pod(f"{reference}:1")
    container = outcome(pod, ["sh", "-c", "echo $NUMBER"])
    assert isinstance(container, Container)
    assert container.annotations["flox.dev/resolved-environment"] == f"{reference}:1"
    assert container.finish().stdout.strip() == first


def test_a_pinned_generation_that_is_here_is_not_pulled_again(world: HubNode) -> None:
    reference = f"{world.publish()}:1"
    before = printed(world.pod(reference))
    pulls = len(world.pulls(reference.partition(":")[0]))
    time.sleep(0.31)
    assert printed(world.pod(reference)) == before
    assert len(world.pulls(reference.partition(":")[0])) == pulls


def test_if_not_present_takes_what_is_here_and_always_what_is_new(world: HubNode) -> None:
    reference = world.publish()
    first = printed(world.pod(reference, annotations={POLICY: "IfNotPresent"}))
    world.publish(reference)
    time.sleep(0.31)
    assert printed(world.pod(reference, annotations={POLICY: "IfNotPresent"})) == first
    assert len(world.pulls(reference)) == 1
    assert printed(world.pod(reference, annotations={POLICY: "Always"})) != first


def test_never_takes_what_is_here_and_asks_nobody(world: HubNode) -> None:
    reference = world.publish()
    never = world.pod(reference, annotations={POLICY: "Never"})
    assert refused(never) == (
        f'flox: environment {reference} for container "main" is not on this node, and flox.dev/pull-policy is Never'
    )
    assert world.pulls(reference) == []
    first = number(world, reference)
    assert printed(world.pod(reference, annotations={POLICY: "Never"})) == first
    assert printed(never) == first
    assert len(world.pulls(reference)) == 1


# ---------------------------------------------------------------------------------------------- what pods are told


def test_not_found(world: HubNode) -> None:
    text = refused(world.pod("acme/nothing"))
    assert text.startswith('flox: environment acme/nothing for container "main" was not found on FloxHub')
    assert "a private environment needs a token" in text


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("network", "FloxHub could not be reached: "),
        ("no-space", "no space left on this node"),
        ("unsupported", f"does not support {SYSTEM}"),
        ("build", "can't be used: "),
    ],
)
def test_what_keeps_an_environment_away_is_told_with_its_name(world: HubNode, failure: Failure, words: str) -> None:
    reference = world.publish()
    world.hub.knob(reference, fail=failure)
    text = refused(world.pod(reference), "app")
    assert text.startswith(f'flox: environment {reference} for container "app" ')
    assert words in text
    assert text.isprintable()
    assert len(text) < 800


def test_what_failed_runs_once_it_is_mended(world: HubNode) -> None:
    reference = world.publish()
    world.hub.knob(reference, fail="network")
    pod = world.pod(reference)
    refused(pod)
    world.hub.knob(reference)
    for tried in tries(pod, ["true"]):
        if isinstance(tried, Container):
            assert tried.finish().exit_code == 0
            break


def test_when_floxhub_is_down_a_generation_that_is_here_serves_new_pods(world: HubNode) -> None:
    reference = world.publish()
    first = number(world, reference)
    world.hub.knob(fail="network")
    time.sleep(0.31)
    assert number(world, reference) == first
    with world.node.reconfigured({}):
        assert number(world, reference) == first, "after a restart too"


def test_when_floxhub_is_down_a_node_may_insist(world: HubNode) -> None:
    reference = world.publish()
    number(world, reference)
    world.hub.knob(fail="network")
    with world.node.reconfigured({"environments": {"on_pull_error": "fail"}}):
        assert "FloxHub could not be reached" in refused(world.pod(reference))


def test_what_was_deleted_from_floxhub_is_gone_for_new_pods(world: HubNode) -> None:
    reference = world.publish()
    number(world, reference)
    world.hub.delete(reference)
    time.sleep(0.31)
    assert "was not found on FloxHub" in refused(world.pod(reference))


# --------------------------------------------------------------------------------------------------------- metrics


def test_a_pod_without_metrics_has_none_on_the_node_nor_in_the_container(world: HubNode) -> None:
    reference = world.publish()
    pod = world.pod(reference, annotations={"flox.dev/disable-metrics": "true"})
    assert printed(pod, "echo $FLOX_DISABLE_METRICS") == "1"
    assert [call.metrics_disabled for call in world.pulls(reference)] == [True]


def test_other_pods_have_metrics(world: HubNode) -> None:
    reference = world.publish()
    assert printed(world.pod(reference), "echo ${FLOX_DISABLE_METRICS-unset}") == "unset"
    assert [call.metrics_disabled for call in world.pulls(reference)] == [False]


# --------------------------------------------------------------------------------------------------------- crashes


@pytest.mark.parametrize("stage", ["ask", "build"])
def test_a_plugin_killed_while_it_pulls_begins_anew(world: HubNode, stage: Stage) -> None:
    reference = world.publish()
    world.nix.gc()
    world.hub.knob(reference, hang=stage, times=1)
    pod = world.pod(reference)
    while not world.pulls(reference):
        time.sleep(0.01)
    time.sleep(0.2)
    world.node.plugin.kill()
    orphan = world.pulls(reference)[0].pid
    world.node.start_plugin()
    assert printed(pod).isdecimal()
    assert world.nix.verify() == []
    if Path(f"/proc/{orphan}").exists():
        os.kill(orphan, signal.SIGKILL)


def test_a_plugin_killed_between_pulls_finds_what_it_had(world: HubNode) -> None:
    reference = world.publish()
    first = printed(world.pod(reference, annotations={POLICY: "IfNotPresent"}))
    world.node.plugin.kill()
    world.node.start_plugin()
    assert printed(world.pod(reference, annotations={POLICY: "IfNotPresent"})) == first
    assert len(world.pulls(reference)) == 1


def test_a_plugin_that_stops_takes_its_pulls_with_it(world: HubNode) -> None:
    reference = world.publish()
    world.hub.knob(reference, hang="ask", ignore_sigterm=True, times=1)
    world.pod(reference)
    while not world.pulls(reference):
        time.sleep(0.01)
    began = time.monotonic()
    assert world.node.plugin.stop() == 0
    assert time.monotonic() - began < 9
    assert not Path(f"/proc/{world.pulls(reference)[0].pid}").exists()
    world.node.start_plugin()
