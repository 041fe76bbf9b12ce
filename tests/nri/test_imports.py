"""The walls between the rooms, and what the service must not pay for in memory."""

import subprocess
import sys

import pytest

MODULES = "import {0}, sys; print(*sys.modules)"


@pytest.mark.parametrize(
    ("module", "rooms"),
    [("nri_flox.ttrpc.driver", {"ttrpc"}), ("nri_flox.nri.plugin", {"ttrpc", "nri"})],
)
def test_room_knows_only_the_rooms_below_it(module: str, rooms: set[str]) -> None:
    assert {name.split(".")[1] for name in imported(module) if name.startswith("nri_flox.")} == rooms


@pytest.mark.parametrize("module", ["nri_flox.ttrpc.driver", "nri_flox.nri.plugin"])
def test_nothing_heavy_is_imported(module: str) -> None:
    heavy = {"asyncio", "concurrent.futures", "ctypes", "grpc", "http", "importlib.metadata", "logging", "ssl"}
    assert imported(module) & heavy == set()


def imported(module: str) -> set[str]:
    """Everything that a fresh interpreter has loaded after importing `module`."""
    run = subprocess.run([sys.executable, "-c", MODULES.format(module)], check=True, capture_output=True, text=True)
    return set(run.stdout.split())
