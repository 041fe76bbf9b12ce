"""What systemd hears from the service."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_flox.service import notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that listens as systemd does, named by NOTIFY_SOCKET."""
    abstract = f"nri-flox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(f"\0{abstract}" if request.param == "abstract" else str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{abstract}" if request.param == "abstract" else str(tmp_path / "notify"))
        yield listener


def test_ready_comes_with_a_status(systemd: socket.socket) -> None:
    assert notify.ready("waiting for the runtime")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=waiting for the runtime"


def test_a_status_is_one_field_whatever_it_holds(systemd: socket.socket) -> None:
    assert notify.status("first\nMAINPID=1")
    assert systemd.recv(4096) == b"STATUS=first MAINPID=1"


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    assert notify.reloading()
    first, second = systemd.recv(4096).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")


def test_stopping_and_watchdog_are_single_fields(systemd: socket.socket) -> None:
    assert notify.stopping()
    assert systemd.recv(4096) == b"STOPPING=1"
    assert notify.watchdog()
    assert systemd.recv(4096) == b"WATCHDOG=1"


def test_nothing_happens_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready("up")


def test_a_socket_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert not notify.ready("up")


def test_a_systemd_that_does_not_read_never_blocks_the_service(systemd: socket.socket) -> None:
    told = [notify.status("x" * 1000) for _ in range(2000)]
    assert told[0]
    assert not told[-1]


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [("30000000", None, 30.0), ("30000000", "1", None), ("0", None, None), ("soon", None, None)],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert notify.watchdog_interval() == seconds
