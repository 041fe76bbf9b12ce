"""An adjustment as the bytes of an NRI CreateContainerResponse.

What is the same for every container of an environment is serialised once; protobuf reads concatenated messages as one
merged message, so an answer is those bytes followed by the few that depend on the container.
"""

from __future__ import annotations

from functools import lru_cache

from nri_flox import __version__
from nri_flox.adjust.decision import Adjust
from nri_flox.flox.activation import FLOX_ENV_CACHE, StaticPlan
from nri_flox.flox.environment import Environment
from nri_flox.flox.reference import Reference
from nri_flox.nri.nri_pb2 import ContainerAdjustment, CreateContainerResponse, KeyValue, Mount

RESOLVED_ENVIRONMENT = "flox.dev/resolved-environment"
STORE_PATH = "flox.dev/store-path"
PLUGIN_VERSION = "flox.dev/plugin-version"

STORE = "/nix/store"

# The serialised response that changes nothing.
UNCHANGED = b""


@lru_cache(maxsize=256)
def answer(decision: Adjust) -> bytes:
    """The serialised CreateContainerResponse for an adjusted container."""
    environ = [KeyValue(key=name, value=value) for name, value in decision.environ.items()]
    variable = CreateContainerResponse(adjust=ContainerAdjustment(env=environ, mounts=decision.mounts))
    constant = _constant(decision.environment, decision.want.reference, store=decision.layer is None)
    return constant + variable.SerializeToString()


@lru_cache(maxsize=4096)
def _constant(environment: Environment, asked: Reference, *, store: bool) -> bytes:
    assert isinstance(environment.plan, StaticPlan)
    resolved = asked.at(environment.reference.generation)
    return CreateContainerResponse(
        adjust=ContainerAdjustment(
            mounts=[
                *([_store(environment)] if store else []),
                # A cache of the container's own, which its user can write whoever it is, and gone with it. Programs
                # are run from there (Python's virtual environments live in it), so it is not `noexec`.
                Mount(
                    destination=FLOX_ENV_CACHE,
                    type="tmpfs",
                    source="tmpfs",
                    options=["mode=1777", "nosuid", "nodev"],
                ),
            ],
            env=[KeyValue(key=name, value=value) for name, value in environment.plan.constants],
            annotations={
                RESOLVED_ENVIRONMENT: str(resolved),
                STORE_PATH: str(environment.store_path),
                PLUGIN_VERSION: __version__,
            },
        )
    ).SerializeToString(deterministic=True)


def _store(environment: Environment) -> Mount:
    options = ["bind", "ro", "nosuid", "nodev", "rprivate"]
    return Mount(destination=STORE, type="bind", source=environment.view, options=options)
