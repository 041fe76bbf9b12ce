"""What becomes of a container: requests in, decisions out. Read top to bottom, this is what the product does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from nri_flox.adjust.decide import Question, decide, foreseen
from nri_flox.adjust.decision import (
    Adjust,
    Decision,
    Fetch,
    NotReady,
    PodTokens,
    Refused,
    Skipped,
    Untouched,
)
from nri_flox.adjust.encode import answer
from nri_flox.config import Config, OnPullError, Policy, Rule, Verdict
from nri_flox.flox.accounts import User
from nri_flox.flox.activation import ScriptedPlan, StaticPlan
from nri_flox.flox.environment import (
    NOTHING,
    Environment,
    Failure,
    Fault,
    Layer,
    PodRecord,
    Standing,
    Want,
)
from nri_flox.flox.envrc import Expansion
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.scripts import NoScripts
from nri_flox.flox.store import StorePath
from nri_flox.flox.token import Lent, Token, Tokens, Unusable
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.nri_pb2 import (
    Container,
    ContainerAdjustment,
    CreateContainerResponse,
    LinuxContainer,
    LinuxNamespace,
    Mount,
    PodSandbox,
)

NOW = 10_000.0  # seconds; the pod began ten seconds before
BEGAN = NOW - 10
LONG_AGO = NOW - 3_600
DAYS_AGO = NOW - 200_000

OLDER = Capabilities.of("containerd", "1.7.24")
NEWER = Capabilities.of("containerd", "2.3.0", "0.12.0")

UID = "6f4c2a1e-1111-2222-3333-444455556666"
VOLUMES = f"/var/lib/kubelet/pods/{UID}/volumes"
PATH = StorePath.parse("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-environment-run")
TOOLS = Reference("acme", "tools")
PINNED = Reference("acme", "tools", 7)
MINE = Lent("c0ffee", Token("secret-1"), 'file "floxhub-token" of volume "mine"')
THEIRS = Lent("dada", Token("secret-2"), 'file "floxhub-token" of volume "theirs"')


STATIC = StaticPlan(
    constants=(("FLOX_ENV", str(PATH)),),
    flox_env=str(PATH),
    path_suffixes=("bin",),
    assignments=(),
    inputs=("PATH",),
    withheld=frozenset({"PATH"}),
)


def environment(
    reference: Reference = TOOLS,
    plan: StaticPlan | ScriptedPlan | None = None,
    scripts: str | NoScripts = "/nix/var/nri-flox/scripts",
) -> Environment:
    return Environment(reference, Mode.RUN, PATH, "/nix/var/nri-flox/view", plan or STATIC, scripts)


@dataclass
class Known:
    """What the node knows in these tests."""

    standings: dict[Want, Standing] = field(default_factory=dict)
    record: PodRecord | None = field(default_factory=lambda: PodRecord(UID, BEGAN, tokens={}))
    account_files: dict[User | None, str] = field(default_factory=dict)
    ready_layer: Layer | Failure | None = None

    def standing(self, want: Want) -> Standing:
        return self.standings.get(want, NOTHING)

    def pod(self, sandbox_id: str) -> PodRecord | None:
        return self.record

    def accounts(self, user: User | None) -> str | None:
        return self.account_files.get(user)

    def layer(self, path: StorePath) -> Layer | Failure | None:
        return self.ready_layer


def want(reference: Reference = TOOLS, lent: Lent | None = None) -> Want:
    return Want(reference, Mode.RUN, lent.credential if lent else None)


def knowing(standing: Standing, *, of: Want | None = None, tokens: Tokens | None = None) -> Known:
    return Known({of or want(): standing}, PodRecord(UID, BEGAN, tokens={} if tokens is None else tokens))


READY = knowing(Standing(environment=environment(), checked=BEGAN))


def ask(
    annotations: dict[str, str] | None = None,
    known: Known = READY,
    *,
    config: Config | None = None,
    handler: str = "",
    runtime: Capabilities = OLDER,
    **container: Any,
) -> Decision:
    """Ask for the container `main`; without annotations the pod wants acme/tools."""
    if annotations is None:
        annotations = {"flox.dev/environment": "acme/tools"}
    pod = PodSandbox(
        id="sandbox", uid=UID, name="web-0", namespace="shop", annotations=annotations, runtime_handler=handler
    )
    question = Question(pod, Container(**{"name": "main", "env": ["PATH=/bin"], **container}), NOW)
    return decide(question, known, config or Config(), runtime, NOW)


def text(decision: Decision) -> str:
    assert isinstance(decision, NotReady | Refused), decision
    assert decision.text.startswith("flox: ")
    assert '"main"' in decision.text
    assert decision.text.isprintable()
    return decision.text


# Most containers have nothing to do with us.


def test_container_without_environment_is_untouched() -> None:
    assert ask({}) == Untouched()


def test_container_is_untouched_when_only_its_neighbour_has_an_environment() -> None:
    assert ask({"flox.dev/environment.sidecar": "acme/tools"}) == Untouched()


def test_skipped_container_is_left_alone_whatever_else_is_asked() -> None:
    asked = {"flox.dev/environment": "!", "flox.dev/activate-mode": "?", "flox.dev/skip-containers": "main"}
    mounts = [Mount(destination="/nix", source="/data")]
    assert isinstance(ask(asked, mounts=mounts), Skipped)


def test_sidecars_that_webhooks_inject_are_skipped_on_every_node() -> None:
    assert isinstance(ask(name="istio-proxy"), Skipped)


# A container whose environment is on the node is adjusted.


def adjustment(decision: Decision) -> ContainerAdjustment:
    assert isinstance(decision, Adjust), decision
    return CreateContainerResponse.FromString(answer(decision)).adjust


def test_adjusted_container_gets_the_view_as_its_store_and_a_cache_of_its_own() -> None:
    store, cache = adjustment(ask()).mounts
    assert (store.destination, store.source, store.type) == ("/nix/store", "/nix/var/nri-flox/view", "bind")
    assert "ro" in store.options
    assert (cache.destination, cache.type) == ("/nix/nri-flox/cache", "tmpfs")
    assert "mode=1777" in cache.options


def test_adjusted_container_gets_env_and_says_in_annotations_what_was_done() -> None:
    adjusted = adjustment(ask(known=knowing(Standing(environment=environment(PINNED), checked=BEGAN))))
    env = {entry.key: entry.value for entry in adjusted.env}
    assert env["FLOX_ENV"] == str(PATH)
    assert env["PATH"] == f"{PATH}/bin:/bin"
    assert adjusted.annotations["flox.dev/resolved-environment"] == "acme/tools:7"
    assert adjusted.annotations["flox.dev/store-path"] == str(PATH)
    assert adjusted.annotations["flox.dev/plugin-version"]


def test_command_is_never_rewritten_for_a_static_environment() -> None:
    assert not adjustment(ask(args=["tool", "--flag"])).args


def test_metrics_are_off_in_the_container_when_pod_or_node_say_so() -> None:
    by_pod = ask({"flox.dev/environment": "acme/tools", "flox.dev/disable-metrics": "true"})
    config = Config()
    by_node = ask(config=replace(config, telemetry=replace(config.telemetry, disable_metrics=True)))
    for decision in (by_pod, by_node):
        assert {entry.key: entry.value for entry in adjustment(decision).env}["FLOX_DISABLE_METRICS"] == "1"
    assert "FLOX_DISABLE_METRICS" not in {entry.key for entry in adjustment(ask()).env}


# What doesn't fit is refused, with a text that says what to change.


@pytest.mark.parametrize(
    ("annotation", "value", "allowed"),
    [
        ("flox.dev/environment", "tools", "owner/name"),
        ("flox.dev/environment.main", "acme/tools:0", "owner/name:N"),
        ("flox.dev/activate-mode", "walk", "run or dev"),
        ("flox.dev/disable-metrics", "on", "true or false"),
        ("flox.dev/nix-mutable", "2", "true or false"),
        ("flox.dev/pull-policy", "Sometimes", "Always or IfNotPresent or Never"),
    ],
)
def test_bad_annotation_is_refused_with_its_name_value_and_what_is_allowed(
    annotation: str, value: str, allowed: str
) -> None:
    refusal = text(ask({"flox.dev/environment": "acme/tools", annotation: value}))
    assert annotation in refusal
    assert value in refusal
    assert allowed in refusal


@pytest.mark.parametrize(
    "place", ["/nix", "/nix/", "/nix/store", "/nix/store/x", "//nix/var", "/etc/../nix", "/nix/nri-flox/cache"]
)
def test_pod_that_mounts_something_of_its_own_where_the_environment_goes_is_refused(place: str) -> None:
    assert "mounts something" in text(ask(mounts=[Mount(destination=place, source="/data")]))


@pytest.mark.parametrize("place", ["/nixos", "/data/nix", "/"])
def test_other_mounts_are_the_pods_own_affair(place: str) -> None:
    assert isinstance(ask(mounts=[Mount(destination=place, source="/data")]), Adjust)


def test_pod_under_our_handler_must_name_an_environment() -> None:
    assert "names no environment" in text(ask({}, handler="flox"))


def test_handler_can_be_required() -> None:
    config = Config()
    config = replace(config, runtime=replace(config.runtime, require_handler=True))
    assert "runtimeClassName" in text(ask(config=config, handler="runc"))
    assert isinstance(ask(config=config, handler="flox"), Adjust)
    assert ask({}, config=config, handler="runc") == Untouched()


@pytest.mark.parametrize(
    ("rule", "asked", "allowed"),
    [
        (Rule(allow=("acme/*",)), "acme/tools", True),
        (Rule(allow=("other/*",)), "acme/tools", False),
        (Rule(allow=()), "acme/tools", False),
        (Rule(pinned_only=True), "acme/tools", False),
        (Rule(pinned_only=True), "acme/tools:7", True),
        (Rule(namespaces=("prod-*",), allow=()), "acme/tools", True),
        (Rule(namespaces=("sh?p",), allow=()), "acme/tools", False),
    ],
)
def test_first_rule_for_the_namespace_decides(rule: Rule, asked: str, allowed: bool) -> None:
    reference = Reference.parse(asked)
    known = knowing(Standing(environment=environment(reference), checked=BEGAN), of=want(reference))
    config = replace(Config(), policy=Policy(rule=(rule, Rule(allow=("*",)))))
    decision = ask({"flox.dev/environment": asked}, known, config=config)
    if allowed:
        assert isinstance(decision, Adjust)
    else:
        assert "the policy of this node does not allow" in text(decision)


def test_without_a_rule_the_policys_default_decides() -> None:
    config = replace(Config(), policy=Policy(default=Verdict.DENY))
    assert "the policy of this node does not allow" in text(ask(config=config))


# What only a shell can activate is activated by one in the container.

HOOK = knowing(Standing(environment=environment(plan=ScriptedPlan("it has a hook", STATIC)), checked=BEGAN))
SCRIPTS = "/nix/nri-flox/scripts"
OWN_PROCESSES = LinuxContainer(
    namespaces=[LinuxNamespace(type="pid"), LinuxNamespace(type="ipc", path="/proc/7/ns/ipc")]
)
SHARED_PROCESSES = LinuxContainer(namespaces=[LinuxNamespace(type="pid", path="/proc/7/ns/pid")])
OUTSIDE = {"flox.dev/environment": "acme/tools", "flox.dev/skip-containers-exec": "main"}


def env(adjusted: ContainerAdjustment) -> dict[str, str]:
    names = [entry.key for entry in adjusted.env]
    assert len(names) == len(set(names)), "a variable comes twice"
    return {entry.key: entry.value for entry in adjusted.env}


def stand_in(adjusted: ContainerAdjustment) -> tuple[str, str] | None:
    """What is mounted as the stand-in for the main command: its name, and the script."""
    for mount in adjusted.mounts:
        if mount.destination.startswith("/nix/nri-flox/main/"):
            assert "ro" in mount.options
            return mount.destination.removeprefix("/nix/nri-flox/main/"), mount.source.rpartition("/")[2]
    return None


@pytest.mark.parametrize(
    ("runtime", "command", "args", "stands_in"),
    [
        # Where the command can be rewritten, a script comes before it, and a stand-in is for those who exec later.
        (NEWER, ["serve", "-v"], [f"{SCRIPTS}/start", "serve", "-v"], ("serve", "attach")),
        (NEWER, ["/bin/serve"], [f"{SCRIPTS}/start", "/bin/serve"], None),
        (NEWER, ["./run"], [f"{SCRIPTS}/start", "./run"], None),
        (NEWER, ["x" * 256], [f"{SCRIPTS}/start", "x" * 256], None),
        # Elsewhere the script stands in for the command.
        (OLDER, ["serve", "-v"], [], ("serve", "first-attach")),
        (OLDER, ["a b%\n"], [], ("a b%\n", "first-attach")),
    ],
)
def test_a_script_comes_before_the_command(
    runtime: Capabilities, command: list[str], args: list[str], stands_in: tuple[str, str] | None
) -> None:
    adjusted = adjustment(ask(known=HOOK, runtime=runtime, args=command, linux=OWN_PROCESSES))
    assert list(adjusted.args) == args
    assert stand_in(adjusted) == stands_in
    front = "/nix/nri-flox/main:" if stands_in else ""
    assert env(adjusted)["PATH"] == f"{front}{SCRIPTS}/bin:{PATH}/bin:/bin"
    assert env(adjusted)["FLOX_ENV"] == str(PATH)


def test_scripts_and_a_place_for_what_they_note_are_mounted() -> None:
    mounts = {mount.destination: mount for mount in adjustment(ask(known=HOOK, args=["serve"])).mounts}
    assert mounts[SCRIPTS].source == "/nix/var/nri-flox/scripts"
    assert "ro" in mounts[SCRIPTS].options
    assert mounts["/nix/nri-flox/state"].type == "tmpfs"
    assert "mode=1777" in mounts["/nix/nri-flox/state"].options


@pytest.mark.parametrize("linux", [SHARED_PROCESSES, LinuxContainer()], ids=["the pod's", "the node's"])
def test_first_process_of_a_shared_namespace_is_known_by_its_claim(linux: LinuxContainer) -> None:
    assert stand_in(adjustment(ask(known=HOOK, args=["serve"], linux=linux))) == ("serve", "claim-attach")


@pytest.mark.parametrize("command", ["/bin/serve", "./run", "bin/serve", ".", "..", "é" * 128])
def test_runtime_that_cannot_rewrite_a_command_is_named_with_what_to_do(command: str) -> None:
    said = text(ask(known=HOOK, args=[command]))
    for word in ["it has a hook", "containerd 1.7.24 (NRI 0.6)", "containerd 2.2", command[:10], "through PATH"]:
        assert word in said
    assert isinstance(ask(args=[command]), Adjust), "a static environment needs none of it"


def test_container_without_a_command_is_refused() -> None:
    for runtime in (OLDER, NEWER):
        assert "no command" in text(ask(known=HOOK, runtime=runtime))


def test_environment_whose_activate_cannot_be_run_is_refused_only_if_it_must_be() -> None:
    reason = NoScripts("its activate script is missing")
    scripted = environment(plan=ScriptedPlan("it has a hook", STATIC), scripts=reason)
    said = text(ask(known=knowing(Standing(environment=scripted, checked=BEGAN)), args=["serve"]))
    assert "it has a hook" in said
    assert "its activate script is missing" in said
    known = knowing(Standing(environment=environment(scripts=reason), checked=BEGAN))
    assert isinstance(ask(known=known, args=["serve"]), Adjust)


def test_variable_that_only_the_process_knows_takes_a_shell_in_that_container_alone() -> None:
    plan = replace(STATIC, assignments=(("DATA", (Expansion("HOME"), "/data")),), inputs=("HOME", "PATH"))
    known = knowing(Standing(environment=environment(plan=plan), checked=BEGAN))
    assert adjustment(ask(known=known, runtime=NEWER, args=["serve"])).args
    with_home = adjustment(ask(known=known, runtime=NEWER, args=["serve"], env=["PATH=/bin", "HOME=/h"]))
    assert not with_home.args
    assert env(with_home)["DATA"] == "/h/data"


@pytest.mark.parametrize("known", [READY, HOOK], ids=["static", "scripted"])
@pytest.mark.parametrize(
    ("runtime", "args", "path", "stands_in"),
    [
        (NEWER, [f"{SCRIPTS}/start", "serve"], None, None),
        # An older runtime can hide all but the one directory that the main command is found in.
        (OLDER, [], "/nix/nri-flox/main:/bin", ("serve", "first-outside")),
    ],
)
def test_commands_run_by_exec_can_be_left_outside(
    known: Known, runtime: Capabilities, args: list[str], path: str | None, stands_in: tuple[str, str] | None
) -> None:
    adjusted = adjustment(ask(OUTSIDE, known, runtime=runtime, args=["serve"], linux=OWN_PROCESSES))
    assert list(adjusted.args) == args
    assert env(adjusted) == ({} if path is None else {"PATH": path})
    assert stand_in(adjusted) == stands_in


def test_dev_mode_wants_the_output_for_it() -> None:
    asked = {"flox.dev/environment": "acme/tools", "flox.dev/activate-mode": "dev"}
    decision = ask(asked, Known())
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    assert decision.need.want == Want(TOOLS, Mode.DEV, None)


# What isn't on the node is fetched, and meanwhile the runtime gets a text.


def test_environment_that_nobody_fetched_is_fetched() -> None:
    decision = ask(known=Known())
    assert "acme/tools" in text(decision)
    assert "is being pulled (for less than 5 s so far)" in text(decision)
    assert isinstance(decision, NotReady)
    assert decision.need == Fetch(want(), None, not_before=BEGAN - 10, local=False, metrics=True)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "5 s"), (4.9, "5 s"), (5, "10 s"), (29, "30 s"), (59, "60 s"), (60, "2 minutes"), (3599, "60 minutes")],
)
def test_time_of_a_pull_goes_in_steps_so_that_events_do_not_multiply(seconds: float, words: str) -> None:
    assert f"(for less than {words} so far)" in text(ask(known=knowing(Standing(since=NOW - seconds))))


def test_tokens_of_the_pod_are_read_first() -> None:
    for record in (None, PodRecord(UID, BEGAN)):
        decision = ask(known=Known(record=record))
        assert isinstance(decision, NotReady)
        assert decision.need == PodTokens()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.NOT_FOUND, ["was not found on FloxHub", "needs a token", "/var/run/secrets/flox.dev"]),
        (Fault.UNREACHABLE, ["FloxHub could not be reached", "DETAIL"]),
        (Fault.NO_SPACE, ["no space left on this node", "DETAIL"]),
        (Fault.UNSUPPORTED_SYSTEM, ["does not support DETAIL"]),
        (Fault.BROKEN, ["can't be used", "DETAIL"]),
    ],
)
def test_each_failure_says_what_and_what_to_do(fault: Fault, words: list[str]) -> None:
    failure = Failure(fault, "DETAIL", "on FloxHub", at=NOW - 1)
    said = text(ask(known=knowing(Standing(failure=failure))))
    for word in words:
        assert word in said


def test_refused_token_says_where_it_was_read() -> None:
    failure = Failure(Fault.TOKEN_REFUSED, "expired", "on FloxHub", at=NOW)
    known = knowing(Standing(failure=failure), of=want(lent=MINE), tokens={"mine": MINE})
    said = text(ask(known=known))
    assert "FloxHub refused the token" in said
    assert 'file "floxhub-token" of volume "mine"' in said
    assert "secret-1" not in said


def test_old_failure_is_tried_again() -> None:
    failure = Failure(Fault.NOT_FOUND, "", "on FloxHub", at=NOW - 11)
    decision = ask(known=knowing(Standing(failure=failure)))
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    # The kubelet may have missed the moment in which it was told.
    assert "is being pulled" in text(decision)
    assert "the attempt before failed: it was not found on FloxHub" in text(decision)


# Freshness: a new pod gets the newest, and keeps it.


@pytest.mark.parametrize(
    ("policy", "checked", "served"),
    [
        # A live environment is checked for each new pod; a check shortly before its sandbox serves it too.
        ("Always", BEGAN + 1, True),
        ("Always", BEGAN - 9, True),
        ("Always", BEGAN - 11, False),
        ("IfNotPresent", LONG_AGO, True),
        ("Never", LONG_AGO, True),
        # That it may be had at all has to be shown now and then, whatever the policy.
        ("IfNotPresent", DAYS_AGO, False),
        ("Never", DAYS_AGO, False),
    ],
)
def test_check_serves_a_pod_by_its_age_and_the_policy(policy: str, checked: float, served: bool) -> None:
    asked = {"flox.dev/environment": "acme/tools", "flox.dev/pull-policy": policy}
    decision = ask(asked, knowing(Standing(environment=environment(), checked=checked)))
    assert isinstance(decision, Adjust) is served


def test_pinned_generation_is_not_checked_again() -> None:
    known = knowing(Standing(environment=environment(PINNED), checked=LONG_AGO), of=want(PINNED))
    assert isinstance(ask({"flox.dev/environment": "acme/tools:7"}, known), Adjust)


def test_pod_keeps_the_environment_that_it_began_with() -> None:
    first, newer = environment(), environment()
    known = knowing(Standing(environment=newer, checked=NOW))
    known.record = PodRecord(UID, BEGAN, tokens={}, kept={want(): first})
    decision = ask(known=known)
    assert isinstance(decision, Adjust)
    assert decision.environment is first


def test_never_means_never() -> None:
    asked = {"flox.dev/environment": "acme/tools", "flox.dev/pull-policy": "Never"}
    decision = ask(asked, Known())
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    assert decision.need.local
    assert "is not on this node" in text(ask(asked, knowing(Standing(looked=NOW))))


@pytest.mark.parametrize(
    ("on_pull_error", "checked", "served"),
    [
        (OnPullError.USE_CACHED, LONG_AGO, True),
        (OnPullError.FAIL, LONG_AGO, False),
        (OnPullError.USE_CACHED, DAYS_AGO, False),  # past token.proof_lifetime
    ],
)
def test_what_is_on_the_node_stands_in_while_floxhub_is_away(
    on_pull_error: OnPullError, checked: float, served: bool
) -> None:
    config = Config()
    config = replace(config, environments=replace(config.environments, on_pull_error=on_pull_error))
    away = Failure(Fault.UNREACHABLE, "timed out", "on FloxHub", at=NOW)
    decision = ask(known=knowing(Standing(environment=environment(), checked=checked, failure=away)), config=config)
    if served:
        assert isinstance(decision, Adjust)
    else:
        assert "FloxHub could not be reached" in text(decision)


# What one pod may have, its neighbour may not.


def mount(volume: str, *, kind: str = "secret", destination: str = "/var/run/secrets/flox.dev") -> Mount:
    return Mount(destination=destination, source=f"{VOLUMES}/kubernetes.io~{kind}/{volume}")


PRIVATE = Standing(environment=environment(), checked=NOW)


def test_private_environment_is_served_to_the_token_that_opened_it() -> None:
    known = knowing(PRIVATE, of=want(lent=MINE), tokens={"mine": MINE})
    assert isinstance(ask(known=known, mounts=[mount("mine")]), Adjust)


@pytest.mark.parametrize("tokens", [{}, {"theirs": THEIRS}])
def test_private_environment_is_not_served_because_a_neighbour_pulled_it(tokens: Tokens) -> None:
    decision = ask(known=knowing(PRIVATE, of=want(lent=MINE), tokens=tokens))
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    assert decision.need.lent == next(iter(tokens.values()), None)


def test_public_environment_is_served_to_everybody() -> None:
    assert isinstance(ask(known=knowing(PRIVATE, of=want(), tokens={"theirs": THEIRS})), Adjust)


@pytest.mark.parametrize(
    ("mounts", "used"),
    [
        ([mount("mine")], MINE),
        ([mount("theirs")], THEIRS),
        ([mount("mine", kind="projected")], MINE),
        ([mount("mine", destination="/var/run/secrets/flox.dev/")], MINE),
        # The file alone, by subPath: the kubelet binds it from a place that is named by volume and container.
        (
            [
                Mount(
                    destination="/var/run/secrets/flox.dev/floxhub-token",
                    source=f"/var/lib/kubelet/pods/{UID}/volume-subpaths/mine/main/0",
                )
            ],
            MINE,
        ),
        # Without such a mount there are two to choose from, so none is taken.
        ([], None),
        ([mount("mine", destination="/etc/token")], None),
        # Other kinds of volumes, other pods' volumes and clever paths are no token mounts.
        ([mount("mine", kind="empty-dir")], None),
        ([Mount(destination="/var/run/secrets/flox.dev", source="/var/lib/kubelet/pods/other/volumes/x/mine")], None),
        ([mount("../../../other/volumes/kubernetes.io~secret/mine")], None),
    ],
)
def test_container_uses_the_token_that_it_mounts(mounts: list[Mount], used: Lent | None) -> None:
    decision = ask(known=Known(record=PodRecord(UID, BEGAN, {"mine": MINE, "theirs": THEIRS})), mounts=mounts)
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    assert decision.need.lent == used
    assert decision.need.want.credential == (used.credential if used else None)


def test_container_without_mount_uses_the_only_token_of_its_pod() -> None:
    decision = ask(known=Known(record=PodRecord(UID, BEGAN, {"mine": MINE, "certificates": None})))
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    assert decision.need.lent == MINE


def test_mounted_secret_without_token_lends_none() -> None:
    record = PodRecord(UID, BEGAN, {"mine": MINE, "certificates": None})
    decision = ask(known=Known(record=record), mounts=[mount("certificates")])
    assert isinstance(decision, NotReady)
    assert isinstance(decision.need, Fetch)
    assert decision.need.lent is None


def test_token_that_cannot_be_used_is_refused_with_the_reason() -> None:
    tokens: Tokens = {"mine": Unusable('file "floxhub-token" of volume "mine"', "it is empty")}
    said = text(ask(known=Known(record=PodRecord(UID, BEGAN, tokens))))
    assert 'volume "mine"' in said
    assert "it is empty" in said


# What can be fetched before a container is asked for.


def test_environments_of_a_new_pod_are_foreseen() -> None:
    pod = PodSandbox(annotations={"flox.dev/environment": "acme/tools", "flox.dev/environment.a": "acme/a:2"})
    found = foreseen(pod, PodRecord(UID, BEGAN, {"mine": MINE}), Config())
    assert {(str(fetch.want.reference), fetch.lent) for fetch in found} == {("acme/tools", MINE), ("acme/a:2", MINE)}


def test_nothing_that_would_be_refused_is_foreseen() -> None:
    pod = PodSandbox(namespace="shop", annotations={"flox.dev/environment": "acme/tools"})
    record = PodRecord(UID, BEGAN, {})
    config = Config()
    denied = replace(config, policy=Policy(default=Verdict.DENY))
    elsewhere = replace(config, runtime=replace(config.runtime, require_handler=True))
    assert foreseen(pod, record, config)
    assert not foreseen(pod, record, denied)
    assert not foreseen(pod, record, elsewhere)
    assert not foreseen(pod, PodRecord(UID, BEGAN, {"mine": Unusable("x", "y")}), config)
