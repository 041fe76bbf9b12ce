"""An adjustment as the bytes of an NRI CreateContainerResponse.

What is the same for every container of an environment is serialised once; protobuf reads concatenated messages as one
merged message, so an answer is those bytes followed by the few that depend on the container.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from nri_flox import __version__
from nri_flox.adjust.decision import Adjust, Shell
from nri_flox.adjust.mounts import read_only, scratch
from nri_flox.flox.activation import FLOX_ENV_CACHE, StaticPlan
from nri_flox.flox.environment import Environment
from nri_flox.flox.reference import Reference
from nri_flox.flox.scripts import MAIN, SCRIPTS, STATE
from nri_flox.flox.store import STORE_DIR
from nri_flox.nri.nri_pb2 import ContainerAdjustment, CreateContainerResponse, KeyValue, Mount

RESOLVED_ENVIRONMENT = "flox.dev/resolved-environment"
STORE_PATH = "flox.dev/store-path"
PLUGIN_VERSION = "flox.dev/plugin-version"

# The serialised response that changes nothing.
UNCHANGED = b""


def answer(decision: Adjust) -> bytes:
    """The serialised CreateContainerResponse for an adjusted container."""
    return _static(decision) if decision.shell is None else _by_shell(decision, decision.shell)


@lru_cache(maxsize=256)
def _static(decision: Adjust) -> bytes:
    constant = _constant_static(decision.environment, decision.want.reference, store=decision.layer is None)
    return constant + _response(ContainerAdjustment(env=_env(decision.environ.items()), mounts=decision.mounts))


def _by_shell(decision: Adjust, shell: Shell) -> bytes:
    mounts = [*decision.mounts]
    if shell.stand_in is not None:
        mounts.append(read_only(f"{shell.scripts}/{shell.stand_in}", f"{MAIN}/{shell.command}"))
    constant = _constant_by_shell(
        decision.environment, decision.want.reference, shell.scripts, shell.outside, store=decision.layer is None
    )
    return constant + _response(ContainerAdjustment(env=_env(decision.environ.items()), args=shell.args, mounts=mounts))


@lru_cache(maxsize=4096)
def _constant_static(environment: Environment, asked: Reference, *, store: bool) -> bytes:
    assert isinstance(environment.plan, StaticPlan)
    return _constant(environment, asked, environment.plan.constants, [], store=store)


@lru_cache(maxsize=4096)
def _constant_by_shell(
    environment: Environment, asked: Reference, scripts: str, outside: bool, *, store: bool
) -> bytes:
    plan = environment.plan
    part = plan if isinstance(plan, StaticPlan) else plan.part
    mounts = [read_only(scripts, SCRIPTS), scratch(STATE, "noexec")]
    return _constant(environment, asked, () if outside else part.preset_constants, mounts, store=store)


def _constant(
    environment: Environment,
    asked: Reference,
    constants: Iterable[tuple[str, str]],
    mounts: Iterable[Mount],
    *,
    store: bool,
) -> bytes:
    resolved = asked.at(environment.reference.generation)
    return _response(
        ContainerAdjustment(
            mounts=[
                *([read_only(environment.view, STORE_DIR)] if store else []),
                # Programs are run from there (Python's virtual environments live in it), so it is not `noexec`.
                scratch(FLOX_ENV_CACHE),
                *mounts,
            ],
            env=_env(constants),
            annotations={
                RESOLVED_ENVIRONMENT: str(resolved),
                STORE_PATH: str(environment.store_path),
                PLUGIN_VERSION: __version__,
            },
        )
    )


def _response(adjustment: ContainerAdjustment) -> bytes:
    return CreateContainerResponse(adjust=adjustment).SerializeToString(deterministic=True)


def _env(variables: Iterable[tuple[str, str]]) -> list[KeyValue]:
    return [KeyValue(key=name, value=value) for name, value in variables]
