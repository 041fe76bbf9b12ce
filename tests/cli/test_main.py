"""The command line as its user meets it: what it prints where, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nri_flox import __version__
from nri_flox.cli import main as cli
from nri_flox.config import ConfigError
from nri_flox.service import service

PROGRAM = [sys.executable, "-m", "nri_flox"]


def nri_flox(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the program with the environment `more` on top of this one."""
    return subprocess.run([*PROGRAM, *arguments], env=os.environ | more, capture_output=True, text=True, timeout=30)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, bool]]:
    """What the service was started with, in place of a service."""
    calls: list[tuple[str | None, bool]] = []

    def run(config_path: str | None, debug: bool) -> int:
        calls.append((config_path, debug))
        return 0

    monkeypatch.setattr(service, "run", run)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(_config_path: str | None, _debug: bool) -> int:
        raise error

    monkeypatch.setattr(service, "run", run)


def test_version_says_the_version() -> None:
    done = nri_flox("version")
    assert (done.returncode, done.stdout) == (0, f"nri-flox {__version__}\n")


def test_help_shows_examples_and_exit_statuses() -> None:
    done = nri_flox("--help")
    assert done.returncode == 0
    for part in ("examples:", "exit status:", "nri-flox check", "run", "demo", "version"):
        assert part in done.stdout


@pytest.mark.parametrize(
    "arguments", [["chek"], [], ["run", "--confg", "x"], ["check", "--output", "xml"], ["demo", "--runtime", ""]]
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str]) -> None:
    done = nri_flox(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nri-flox: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_config_is_one_line_and_status_2() -> None:
    done = nri_flox("run", "--config", "/nowhere.toml")
    assert (done.returncode, done.stderr) == (2, "nri-flox: /nowhere.toml: there is no such file\n")


def test_a_demo_on_what_is_no_release_says_what_is_one() -> None:
    done = nri_flox("demo", "--runtime=")
    assert "--runtime: must be a release of containerd such as 1.7 or 2.1, not ''" in done.stderr


@pytest.mark.parametrize("number", ["abc", "99999999999999999999"])
def test_a_launch_without_a_socket_is_one_clear_line(number: str) -> None:
    done = nri_flox(NRI_PLUGIN_SOCKET=number)
    said = f"nri-flox: NRI_PLUGIN_SOCKET={number} is not the number of an open socket\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_debug_shows_where_an_error_comes_from() -> None:
    done = nri_flox("--debug", "run", "--config", "/nowhere.toml")
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_output_that_nobody_reads_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*PROGRAM, "version"], stdout=writing, stderr=subprocess.PIPE, timeout=30)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_run_hands_the_config_to_the_service(served: list[tuple[str | None, bool]]) -> None:
    assert cli.main(["run"]) == 0
    assert cli.main(["run", "--config", "my.toml", "--debug"]) == 0
    assert cli.main(["--debug", "run"]) == 0
    assert served == [(None, False), ("my.toml", True), (None, True)]


def test_a_plugin_launched_by_the_runtime_serves_without_being_told_to(
    monkeypatch: pytest.MonkeyPatch, served: list[tuple[str | None, bool]]
) -> None:
    monkeypatch.setenv("NRI_PLUGIN_SOCKET", "3")
    assert cli.main([]) == 0
    assert served == [(None, False)]


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (ConfigError("c.toml: nri.x: there is no such key"), "c.toml: nri.x: there is no such key", 2),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied", 1),
        (KeyError("x"), "unexpected KeyError: 'x'; --debug shows where it comes from", 1),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
    status: int,
) -> None:
    failing(monkeypatch, error)
    assert cli.main(["run"]) == status
    assert capsys.readouterr().err == f"nri-flox: {said}\n"


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert cli.main(["run"]) == 130
    assert capsys.readouterr().err == ""


def test_the_service_carries_nothing_that_only_other_commands_need() -> None:
    heavy = "grpc", "asyncio", "ssl", "sentry_sdk", "sqlite3", "tomllib", "http", "ctypes", "importlib.metadata"
    program = (
        "import sys; from nri_flox.cli import main; import nri_flox.service.service;"
        f"sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stderr.strip() == ""


def test_help_loads_neither_service_nor_messages() -> None:
    program = (
        "import sys; from nri_flox.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('google', 'structlog', 'nri_flox.service'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_program_works_from_a_link_without_path_and_home(tmp_path: Path) -> None:
    link = tmp_path / "50-flox"
    link.symlink_to(Path(sys.executable).parent / "nri-flox")
    done = subprocess.run([link, "version"], env={}, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"nri-flox {__version__}\n")
