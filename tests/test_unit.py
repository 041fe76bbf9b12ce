"""The systemd unit: what must never be in it, and that systemd understands it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "systemd/nri-flox.service"

# Settings of systemd.exec(5) that give a service a mount namespace of its own.
NAMESPACES = (
    "BindPaths|BindReadOnlyPaths|DynamicUser|ExecPaths|ExtensionDirectories|ExtensionImages|InaccessiblePaths|"
    "LoadCredential|MountAPIVFS|MountFlags|MountImages|NoExecPaths|Private(Devices|IPC|Mounts|Network|Tmp|Users)|"
    "ProcSubset|Protect(Clock|ControlGroups|Home|Hostname|KernelLogs|KernelModules|KernelTunables|Proc|System)|"
    "ReadOnlyPaths|ReadWritePaths|RootDirectory|RootImage|TemporaryFileSystem"
)


def test_the_service_shares_the_nodes_mounts() -> None:
    # Hard links, of which views are made, don't cross from one mount to another.
    assert re.findall(rf"^(?:{NAMESPACES})=.*", UNIT.read_text(), re.MULTILINE) == []


def test_no_core_dump_holds_a_token() -> None:
    assert "\nLimitCORE=0\n" in UNIT.read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/nri-flox/bin/nri-flox", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert ours == []
