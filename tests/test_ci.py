"""A node test that never runs must be noticed: in CI, skipping one is failing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
SKIPPED = "import pytest\ndef test_something():\n    pytest.skip('no runc')\n"
SKIPPED_WHOLE = "import pytest\npytest.skip('no runc', allow_module_level=True)\n"


def run(tmp_path: Path, where: str, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / where).mkdir()
    (tmp_path / where / "test_it.py").write_text(test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    return subprocess.run(command, env=os.environ | {"CI": ci}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("test", [SKIPPED, SKIPPED_WHOLE], ids=["test", "module"])
def test_a_skipped_node_test_fails_in_ci(tmp_path: Path, test: str) -> None:
    done = run(tmp_path, "node", test, "true")
    assert done.returncode == (1 if test == SKIPPED else 2), done.stdout
    assert "no runc" in done.stdout


@pytest.mark.parametrize(("where", "ci"), [("node", ""), ("flox", "true")])
def test_other_skipped_tests_say_why(tmp_path: Path, where: str, ci: str) -> None:
    done = run(tmp_path, where, SKIPPED, ci)
    assert done.returncode == 0, done.stdout
    assert "no runc" in done.stdout
