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


def test_the_end_is_one_field(systemd: socket.socket) -> None:
    assert notify.stopping()
    assert systemd.recv(4096) == b"STOPPING=1"


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
