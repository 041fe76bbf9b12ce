"""The decision: pod, container and what is known on this node in, one of five outcomes out.

Pure: no disk, no clock, no lock. It is asked again, with more known, after what it needs has been fetched. Refusals
come in the order in which a person would want to hear of them: what is written in the manifest first, what this node
can't do next, what FloxHub says last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from nri_flox.adjust import mutable, scaffold, texts
from nri_flox.adjust.decision import (
    Adjust,
    Decision,
    Fetch,
    NotReady,
    PodTokens,
    Refused,
    Shell,
    Skipped,
    Untouched,
)
from nri_flox.adjust.mounts import place
from nri_flox.adjust.policy import forbidden
from nri_flox.config import Config, OnPullError
from nri_flox.flox.activation import DEFAULT_PATH, NeedsShell, StaticPlan
from nri_flox.flox.annotations import (
    ENVIRONMENT,
    ENVIRONMENT_OF,
    SKIP_EXEC,
    Absent,
    InvalidAnnotation,
    PullPolicy,
    Wish,
    names_environment,
    wish,
    wishes,
)
from nri_flox.flox.environment import Environment, Fault, PodRecord, Standing, Want
from nri_flox.flox.scripts import MAIN, SCRIPTS, STAND_INS, NoScripts, first_script
from nri_flox.flox.token import Lent, TokenMount, Tokens, Unusable, choose
from nri_flox.flox.wording import clean, quote
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.nri_pb2 import Container, PodSandbox

# What the plugin mounts lies below; a mount of the pod's own there would silently win over it, or be hidden by it.
NIX = "/nix"

_LONGEST_FILE_NAME = 255  # bytes, on Linux

# Characters of env.
_LONGEST_REMEMBERED = 16 * 1024

# Attempts that failed for these reasons may well succeed the next time without anybody changing the pod.
_PASSING = frozenset({Fault.UNREACHABLE, Fault.NO_SPACE})


class Known(scaffold.Known, mutable.Known, Protocol):
    """What the node knows, read without waiting."""

    def standing(self, want: Want) -> Standing: ...

    def pod(self, sandbox_id: str) -> PodRecord | None: ...


@dataclass(frozen=True, slots=True)
class Question:
    """One container that is to be created, and when it was asked for (monotonic seconds)."""

    pod: PodSandbox
    container: Container
    arrived: float


def decide(question: Question, known: Known, config: Config, runtime: Capabilities, now: float) -> Decision:
    """What becomes of the container on such a runtime, as things stand at `now` (monotonic seconds)."""
    pod, container, annotations = question.pod, question.container, question.pod.annotations
    if refusal := _handler_refusal(pod, config):
        return Refused(texts.about(container.name, _named(annotations, container.name), refusal))
    try:
        wished = wish(annotations, container.name, config.runtime.skip_containers)
    except InvalidAnnotation as error:
        return Refused(texts.about(container.name, _named(annotations, container.name), str(error)))
    match wished:
        case Absent.UNNAMED:
            return Untouched()
        case Absent():
            return Skipped(wished)
    if refusal := _refusal(pod, container, wished, config):
        return Refused(texts.environment(container.name, wished.reference, refusal))
    return _in_environment(question, wished, known, config, runtime, now)


def _named(annotations: Mapping[str, str], container: str) -> str | None:
    """What the pod names for the container, whatever it is worth."""
    return annotations.get(ENVIRONMENT_OF + container, annotations.get(ENVIRONMENT))


def _handler_refusal(pod: PodSandbox, config: Config) -> str | None:
    ours = pod.runtime_handler in config.runtime.handlers
    if ours and not names_environment(pod.annotations):
        return (
            f"the pod has the runtime handler {quote(pod.runtime_handler)} and names no environment; "
            "give it the annotation flox.dev/environment, or no runtimeClassName"
        )
    if not ours and config.runtime.require_handler and names_environment(pod.annotations):
        handlers = " or ".join(map(quote, config.runtime.handlers))
        return (
            f"the pod names an environment, and on this node only pods of the runtime handler {handlers} may; "
            "set its runtimeClassName"
        )
    return None


def _refusal(pod: PodSandbox, container: Container, wished: Wish, config: Config) -> str | None:
    if why := forbidden(config.policy, pod.namespace, wished):
        return f"can't be had: the policy of this node does not allow it: {clean(why)}"
    for at in [place(mount.destination) for mount in container.mounts if "nix" in mount.destination]:
        if at == NIX or at.startswith(NIX + "/"):
            return (
                f"can't be had: the pod mounts something of its own at {quote(at)}, and {NIX} is where the "
                "environment goes; mount it elsewhere, or name the container in flox.dev/skip-containers"
            )
    if wished.nix_mutable and (why := mutable.not_mutable(pod, container)):
        return f"can't be had: {why}"
    return None


def _in_environment(
    question: Question, wished: Wish, known: Known, config: Config, runtime: Capabilities, now: float
) -> Decision:
    container, record = question.container, known.pod(question.pod.id)
    public = Want(wished.reference, wished.mode, None)
    if record is not None and (kept := record.kept.get(public)):
        return _adjusted(question, wished, public, kept, known, config, runtime)
    if record is None or record.tokens is None:
        return NotReady(texts.pulling(container.name, wished.reference, now - question.arrived), PodTokens())
    lent = _lent(record, record.tokens, container, config)
    if isinstance(lent, Unusable):
        return Refused(texts.unusable_token(container.name, wished.reference, lent))
    want = Want(wished.reference, wished.mode, lent.credential if lent else None)
    standing = known.standing(want)
    for candidate, seen in ((want, standing), (public, known.standing(public))):
        if environment := _usable(seen, wished, record, question.arrived, config):
            return _adjusted(question, wished, candidate, environment, known, config, runtime)

    failure = standing.failure
    why: str | None = None
    if failure is not None:
        why = texts.why(failure, lent, config.token.mount_path, here=standing.environment is not None)
        # Later than this, the next try of the kubelet asks anew.
        if failure.at >= question.arrived - config.environments.fresh_for:
            text = texts.environment(container.name, wished.reference, why)
            return NotReady(text, None) if failure.fault in _PASSING else Refused(text)
    if wished.policy is PullPolicy.NEVER and standing.looked >= question.arrived - config.environments.fresh_for:
        text = (
            "is not on this node" if standing.environment is None else "was checked too long ago (token.proof_lifetime)"
        )
        text += ", and flox.dev/pull-policy is Never"
        return Refused(texts.environment(container.name, wished.reference, text))
    asked = question.arrived if standing.since is None else standing.since
    return NotReady(
        texts.pulling(container.name, wished.reference, now - asked, why),
        _fetch(wished, record, config, lent),
    )


def _lent(record: PodRecord, tokens: Tokens, container: Container, config: Config) -> Lent | Unusable | None:
    if not any(tokens.values()):  # as in most pods: which volume the container mounts makes no difference
        return None
    mounts = TokenMount(config.token.mount_path, config.token.file, config.token.kubelet_root)
    return choose(tokens, mounts.volume(record.uid, [(mount.destination, mount.source) for mount in container.mounts]))


def foreseen(pod: PodSandbox, record: PodRecord, config: Config) -> list[Fetch]:
    """What the containers of a pod will need, as far as its annotations and volumes tell before one is created."""
    if _handler_refusal(pod, config) or record.tokens is None:
        return []
    lent = choose(record.tokens, None)
    if isinstance(lent, Unusable):
        return []
    return [
        _fetch(wished, record, config, lent)
        for wished in wishes(pod.annotations)
        if not forbidden(config.policy, pod.namespace, wished)
    ]


def _fetch(wished: Wish, record: PodRecord, config: Config, lent: Lent | None) -> Fetch:
    return Fetch(
        want=Want(wished.reference, wished.mode, lent.credential if lent else None),
        lent=lent,
        not_before=_not_before(wished, record, config),
        local=wished.policy is PullPolicy.NEVER,
        metrics=not _metrics_disabled(wished, config),
    )


def _metrics_disabled(wished: Wish, config: Config) -> bool:
    return wished.disable_metrics or config.telemetry.disable_metrics


def _not_before(wished: Wish, record: PodRecord, config: Config) -> float:
    """When the check that serves the pod must have begun, at the earliest."""
    if wished.policy is PullPolicy.ALWAYS:
        # Shortly before the pod's own sandbox, or later. This stays true for the pod's life, so that the kubelet's
        # retries converge.
        return record.began - config.environments.fresh_for
    # That the token opens the environment, or that it is public, has to be shown now and then all the same.
    return record.began - config.token.proof_lifetime


def _usable(standing: Standing, wished: Wish, record: PodRecord, arrived: float, config: Config) -> Environment | None:
    environment, since = standing.environment, _not_before(wished, record, config)
    if environment is None or standing.checked >= since:
        return environment
    out_of_reach = (
        standing.failure is not None
        and standing.failure.fault is Fault.UNREACHABLE
        and standing.failure.at >= since
        and config.environments.on_pull_error is OnPullError.USE_CACHED
        and standing.checked >= arrived - config.token.proof_lifetime
    )
    return environment if out_of_reach else None


def _adjusted(
    question: Question,
    wished: Wish,
    want: Want,
    environment: Environment,
    known: Known,
    config: Config,
    runtime: Capabilities,
) -> Decision:
    """What becomes of the container once its environment is settled."""
    decision = _activate(question, wished, want, environment, config, runtime)
    if isinstance(decision, Adjust):
        decision = scaffold.furnished(decision, question.container, known, config)
    if isinstance(decision, Adjust) and wished.nix_mutable:
        since = question.arrived - config.environments.fresh_for
        decision = mutable.mutable(decision, question.container, known, since)
    return decision


def _activate(
    question: Question, wished: Wish, want: Want, environment: Environment, config: Config, runtime: Capabilities
) -> Decision:
    container, plan = question.container, environment.plan
    metrics_disabled = _metrics_disabled(wished, config)
    if not isinstance(plan, StaticPlan):
        part, reason = plan.part, plan.reason
    elif wished.skip_exec:
        part, reason = plan, f"{SKIP_EXEC} names the container"
    else:
        env = _of_interest(container, plan.inputs)
        # Replicas are alike in what the plan looks at, so most answers are there already. What a pod can make us
        # remember is bounded.
        adjust = _adjust if sum([len(value) for value in env if value]) < _LONGEST_REMEMBERED else _adjust.__wrapped__
        decision = adjust(want, environment, env, metrics_disabled)
        if isinstance(decision, Adjust):
            return decision
        part, reason = plan, decision.reason
    shell = _shell(container, environment, runtime, outside=wished.skip_exec)
    if isinstance(shell, str):
        text = f"needs a shell to be activated ({reason}), and {shell}"
        return Refused(texts.environment(container.name, want.reference, text))
    return Adjust(want, environment, _before_shell(container, part, shell, metrics_disabled), shell)


def _before_shell(container: Container, part: StaticPlan, shell: Shell, metrics_disabled: bool) -> dict[str, str]:
    """What the container's env gets where a shell activates the environment."""
    env = _by_name(part.inputs, _of_interest(container, part.inputs))
    front = [] if shell.stand_in is None else [MAIN]
    if shell.outside:
        preset = {"PATH": env.get("PATH", DEFAULT_PATH)} if front else {}
    else:
        preset = part.preset(env)
        front.append(STAND_INS)
    if front:
        preset["PATH"] = ":".join([*front, preset["PATH"]])
    if metrics_disabled:
        preset["FLOX_DISABLE_METRICS"] = "1"
    return preset


def _shell(container: Container, environment: Environment, runtime: Capabilities, *, outside: bool) -> Shell | str:
    """How a shell comes before the container's command, or why none can."""
    scripts = environment.scripts
    if isinstance(scripts, NoScripts):
        return f"can't be: {scripts.reason}"
    command = container.args[0] if container.args else ""
    if not command:
        return "can't be: the container has no command"
    # What PATH can find is a file name, and no more than the kernel takes for one.
    by_name = "/" not in command and command not in (".", "..") and len(command.encode()) <= _LONGEST_FILE_NAME
    if runtime.rewrites_args:
        stand_in = "attach" if by_name and not outside else None
        return Shell(scripts, command, (f"{SCRIPTS}/start", *container.args), stand_in, outside)
    if not by_name:
        return (
            f"{runtime} can't have a shell put before the command {quote(command)}, which is no bare name; "
            f"{runtime.release_with_args} and later can; until then, name a program that is found through PATH, "
            "such as sh with the path as its argument"
        )
    own = any(namespace.type == "pid" and not namespace.path for namespace in container.linux.namespaces)
    return Shell(scripts, command, (), first_script(own_processes=own, outside=outside), outside)


def _of_interest(container: Container, names: tuple[str, ...]) -> tuple[str | None, ...]:
    """The container's values for `names`; the last of several entries for one name counts."""
    # One text to search is much cheaper than each entry by itself, and this is on every answer's way.
    text = "\0" + "\0".join(container.env) + "\0"
    values: list[str | None] = []
    for name in names:
        begin = text.rfind(f"\0{name}=") + len(name) + 2
        values.append(text[begin : text.index("\0", begin)] if begin > len(name) + 1 else None)
    return tuple(values)


def _by_name(names: tuple[str, ...], values: tuple[str | None, ...]) -> dict[str, str]:
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


@lru_cache(maxsize=256)
def _adjust(
    want: Want, environment: Environment, env: tuple[str | None, ...], metrics_disabled: bool
) -> Adjust | NeedsShell:
    plan = environment.plan
    assert isinstance(plan, StaticPlan)
    environ = plan.environ(_by_name(plan.inputs, env))
    if isinstance(environ, NeedsShell):
        return environ
    if metrics_disabled:
        environ["FLOX_DISABLE_METRICS"] = "1"
    return Adjust(want, environment, environ)
