"""The static plan against a whole environment: rendered, read, and activated by its own `activate` in its own bash."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from nri_flox.demo import packages
from nri_flox.demo.render import Executable, add_path, render
from nri_flox.flox import rendered
from nri_flox.flox.activation import NeedsShell, ScriptedPlan, plan
from nri_flox.flox.reference import Mode
from nri_flox.flox.store import Store, StorePath
from tests.flox.test_activation_against_bash import NOISE, assignable, environments, pieces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes the root directory, which only root may")

# Options, not of the environment's own making.
GIVEN = {"FLOX_ENV_CACHE", "FLOX_ENV_PROJECT"}

values = st.lists(pieces, max_size=4).map("".join)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with a store, a bash in it, and a program that shows its env."""
    root = tmp_path_factory.mktemp("root")
    (root / "nix/store").mkdir(parents=True)
    (root / "dev").mkdir()
    try:
        shutil.copy(packages.busybox(), root / "busybox")
        bash = Executable(packages.bash().read_bytes())
    except packages.Unavailable as error:
        pytest.skip(str(error))
    (root / "bash").symlink_to(f"{add_path(str(root / 'nix/store'), 'bash', {'bin/bash': bash})}/bin/bash")
    return root


def after_activate(root: Path, path: StorePath, container_env: dict[str, str]) -> dict[str, str] | None:
    """The env of a command of the activated environment, or None where the activation fails."""
    done = subprocess.run(
        [
            "/usr/sbin/chroot",
            root,
            f"{path}/activate",
            "--env",
            str(path),
            "--mode",
            "run",
            "--",
            "/busybox",
            "env",
            "-0",
        ],
        env=container_env,
        capture_output=True,
        timeout=10,
        check=False,
    )
    if done.returncode != 0:
        return None
    entries = done.stdout.decode().split("\0")[:-1]
    return {name: value for name, _, value in (entry.partition("=") for entry in entries) if name not in NOISE}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    variables=st.dictionaries(assignable, values, max_size=5),
    container_env=environments,
    active=st.sampled_from([{}, {"FLOX_ENV_DIRS": "/nix/store/other"}, {"PATH": "/a:/bin:/a", "MANPATH": "/m"}]),
    flox=st.sampled_from(["1.9", "1.12", "1.14.1"]),
)
def test_a_static_plan_says_what_the_environments_own_activate_does(
    root: Path, variables: dict[str, str], container_env: dict[str, str], active: dict[str, str], flox: str
) -> None:
    env = {"PATH": "/usr/bin:/bin", **container_env, **active}
    store, bash = str(root / "nix/store"), os.readlink(root / "bash")
    path = render(store, "acme", "tools", vars=variables, bash=bash, flox=flox)
    lines = Path(store, path.name, "requisites.txt").read_text().split()
    made = plan(rendered.read(Store(store), path, frozenset(map(StorePath.parse, lines))), Mode.RUN)
    if isinstance(made, ScriptedPlan):
        event("scripted")
        return
    dependent = made.environ(env)
    if isinstance(dependent, NeedsShell):
        event("static, but not in this container")
        return
    event("static")
    expected = after_activate(root, path, env)
    assert expected is not None, "the activation fails where the plan sets variables"
    actual = env | dict(made.constants) | dependent
    assert {name: value for name, value in actual.items() if name not in {*NOISE, *GIVEN}} == expected
