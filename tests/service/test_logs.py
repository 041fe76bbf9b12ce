"""What stands in the log, and that nobody has to wait for it."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog

from nri_flox.config import Log, LogFormat, LogLevel
from nri_flox.service import logs


class Pipe:
    """A pipe for an outlet to write to."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()

    def text(self) -> str:
        """All that was written; ends the writing."""
        os.close(self.writing)
        return self.read()

    def read(self) -> str:
        """What is written until somebody closes `writing`."""
        with open(self._reading, encoding="utf-8") as file:
            return file.read()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_an_event_is_one_json_object_with_time_level_and_values(pipe: Pipe) -> None:
    outlet = logs.start(Log(), pipe.writing)
    logs.get_logger().info("registered", runtime="containerd", pods=3, share=0.5, known=True, none=None)
    outlet.close()
    (event,) = pipe.events()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", event.pop("timestamp"))
    assert event == {
        "level": "info",
        "event": "registered",
        "runtime": "containerd",
        "pods": 3,
        "share": 0.5,
        "known": True,
        "none": None,
    }


def test_the_console_format_is_one_line_for_people(pipe: Pipe) -> None:
    outlet = logs.start(Log(format=LogFormat.CONSOLE), pipe.writing)
    logs.get_logger().warning("disconnected", reason="socket closed")
    outlet.close()
    assert re.fullmatch(r"\S+ \[warning *\] disconnected +reason='?socket closed'?\n", pipe.text())


def test_only_events_of_the_level_or_above_are_written(pipe: Pipe) -> None:
    outlet = logs.start(Log(level=LogLevel.WARNING), pipe.writing)
    log = logs.get_logger()
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    outlet.close()
    assert [event["level"] for event in pipe.events()] == ["warning", "error"]


def test_level_and_format_change_at_a_reload(pipe: Pipe) -> None:
    outlet = logs.start(Log(), pipe.writing)
    log = logs.get_logger()
    log.debug("before")
    outlet.apply(Log(level=LogLevel.DEBUG))
    log.debug("after")
    outlet.close()
    assert [event["event"] for event in pipe.events()] == ["after"]


@pytest.mark.parametrize("settings", [Log(), Log(format=LogFormat.CONSOLE)], ids=str)
def test_control_characters_never_reach_a_terminal(pipe: Pipe, settings: Log) -> None:
    outlet = logs.start(settings, pipe.writing)
    logs.get_logger().info("pod\x1b[2J", name="a\r\nlevel=error\x1b]0;x\x07\u202e\x85\udc80")
    outlet.close()
    text = pipe.text()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()


def test_a_long_value_is_cut(pipe: Pipe) -> None:
    outlet = logs.start(Log(), pipe.writing)
    logs.get_logger().info("pull", output="x" * 10_000)
    outlet.close()
    (event,) = pipe.events()
    assert event["output"] == "x" * logs.LONGEST_VALUE + "... (10000 characters)"


def test_an_exception_keeps_its_traceback(pipe: Pipe) -> None:
    outlet = logs.start(Log(), pipe.writing)
    try:
        raise KeyError("lost")
    except KeyError as error:
        logs.get_logger().error("unexpected", exc_info=error)
    outlet.close()
    (event,) = pipe.events()
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert event["exception"].endswith("KeyError: 'lost'")


def test_a_value_that_cannot_be_printed_does_not_end_the_log(pipe: Pipe) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    outlet = logs.start(Log(), pipe.writing)
    logs.get_logger().info("first", value=Broken())
    logs.get_logger().info("second")
    outlet.close()
    first, second = pipe.text().splitlines()
    assert "could not be rendered: RuntimeError" in first
    assert json.loads(second)["event"] == "second"


def test_a_stderr_that_nobody_reads_blocks_nobody_and_losses_are_counted(pipe: Pipe) -> None:
    size = fcntl.fcntl(pipe.writing, fcntl.F_SETPIPE_SZ, 4096)
    outlet = logs.start(Log(), pipe.writing)
    log = logs.get_logger()
    written = logs.QUEUE_LENGTH + 500
    began = time.monotonic()
    for number in range(written):
        log.info("event", number=number, filling="x" * 100)
    assert time.monotonic() - began < 2
    outlet.close(timeout=0)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(pipe.read)
        outlet._thread.join(10)
        os.close(pipe.writing)
        events = [json.loads(line) for line in reading.result().splitlines()]
    reported = sum(event["count"] for event in events if "count" in event)
    kept = sum(event["event"] == "event" for event in events)
    assert reported > 0, f"{kept} events fitted into the queue and a pipe of {size} bytes"
    assert kept + reported == written


def test_a_closed_stderr_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outlet = logs.start(Log(), writing)
    logs.get_logger().info("to nobody")
    outlet.close()
    assert not outlet._thread.is_alive()
    os.close(writing)


def test_lines_to_the_journal_carry_their_priority(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(pipe.writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    outlet = logs.start(Log(), pipe.writing)
    logs.get_logger().info("fine")
    logs.get_logger().error("broken")
    outlet.close()
    assert [line[:4] for line in pipe.text().splitlines()] == ["<6>{", "<3>{"]


def test_what_is_queued_when_the_process_ends_is_still_written() -> None:
    program = (
        "from nri_flox.config import Log; from nri_flox.service import logs; logs.start(Log());"
        "[logs.get_logger().info('event', number=number) for number in range(1000)]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stderr.count("\n") == 1000


def test_structlog_costs_neither_asyncio_nor_tls() -> None:
    program = (
        "import sys; from nri_flox.service import logs;"
        "assert not {'asyncio', 'ssl'} & set(sys.modules), 'loaded';"
        "import structlog, asyncio;"
        # Whoever does use structlog's methods for asyncio finds the real one.
        "assert structlog.stdlib.asyncio.get_running_loop is asyncio.get_running_loop"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
