"""`nri-flox demo` as a process of its own, to its end and interrupted on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nri_flox.demo import demo, packages
from nri_flox.demo.containerd import obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMAND = [sys.executable, "-c", "import sys; from nri_flox.demo.demo import main; sys.exit(main('1.7', False))"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The demo's TMPDIR, with a short path; skips where no demo can run."""
    if why_not := obstacle():
        pytest.skip(f"no private node: {why_not}")
    try:
        packages.containerd("1.7")
        packages.runc()
    except packages.Unavailable as error:
        pytest.skip(f"no private node: {error}")
    with tempfile.TemporaryDirectory(prefix="nri-flox-") as directory:
        yield Path(directory)


def _traces(temporary: Path) -> list[str]:
    """Files, mounts and processes that have to do with the directory."""
    lines = Path("/proc/self/mountinfo").read_text() + subprocess.check_output(["ps", "-eo", "args"], text=True)
    return [line for line in lines.splitlines() if f"{temporary}/" in line] + os.listdir(temporary)


def test_it_shows_what_happened_to_each_container_and_leaves_nothing(temporary: Path) -> None:
    done = subprocess.run(
        _COMMAND, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    empty, sidecar, quotes = done.stdout.split("\n  container ")[1:]
    assert "decision  adjusted, limeytexan/echoip, /nix/store/" in empty
    assert "/nix/store from " in empty
    assert "PATH=$FLOX_ENV/bin:" in empty
    assert "flox.dev/resolved-environment: limeytexan/echoip:3" in empty
    assert "printed   Hello from /nix/store/" in empty
    assert "with status 0" in empty
    assert "decision  skipped" in sidecar
    assert "mounted   nothing\n    set       nothing\n" in sidecar
    assert "printed   FLOX_ENV is unset" in sidecar
    assert "decision  adjusted, flox/quotes-app, /nix/store/" in quotes
    assert "printed   Simplicity" in quotes
    assert _traces(temporary) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["containerd started", "nri-flox started", "decision"])
def test_nothing_is_left_when_it_is_interrupted(temporary: Path, moment: str, ending: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(_COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        said = b""
        while moment.encode() not in said and (more := os.read(running.stdout.fileno(), 4096)):
            said += more
        running.send_signal(ending)
        running.send_signal(ending)
        rest, complaints = running.communicate()
    assert (said + rest).endswith(b"\ninterrupted\n")
    assert (running.returncode, complaints) == (130, b"")
    assert _traces(temporary) == []


def test_without_the_rights_it_says_so(temporary: Path) -> None:
    command = ["setpriv", "--bounding-set", "-sys_admin", *_COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "run it as root" in done.stderr


def test_what_cannot_be_had_is_one_line(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NRI_FLOX_CACHE", str(temporary / "cache"))
    monkeypatch.setenv("PATH", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert demo.main("2.3", keep=False) == 1
    error = capsys.readouterr().err
    assert error.startswith("nri-flox demo: ")
    assert error.count("\n") == 1
