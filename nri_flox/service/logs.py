"""The service's log: structured events, rendered and written by a thread of their own.

Who logs never waits for stderr: an event goes into a bounded queue, and is dropped and counted when that is
full. Values are made harmless on the way out (control characters, length). Secrets must not be logged at all;
nothing in here knows which those are.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from json import JSONEncoder
from queue import SimpleQueue
from time import sleep, time
from types import ModuleType
from typing import Any

from nri_flox.config import Log, LogFormat, LogLevel
from nri_flox.flox.wording import escape

# Events that wait for a slow stderr before the next ones are dropped: a megabyte or so.
QUEUE_LENGTH = 2048
# Longest text of one value, in characters.
LONGEST_VALUE = 2048
LONGEST_TRACEBACK = 16384

# How long events gather before they are written. Requests come in bursts, and rendering the last one's event would
# fight the next for the interpreter.
_GATHER = 0.02  # seconds
_TOGETHER = 256  # lines of one write


@contextmanager
def _asyncio_deferred() -> Iterator[None]:
    """While this lasts, `import asyncio` gives a stand-in that becomes the real one at its first use.

    structlog imports asyncio for methods that nothing here calls. With the TLS library that it pulls in, that
    is 6 of the 7.5 MB and 60 of the 80 ms that importing structlog costs (measured on Python 3.11).
    """
    if "asyncio" in sys.modules:
        yield
        return
    deferred = ModuleType("asyncio")
    deferred.__getattr__ = lambda name: getattr(import_module("asyncio"), name)  # type: ignore[method-assign]
    sys.modules["asyncio"] = deferred
    try:
        yield
    finally:
        del sys.modules["asyncio"]


with _asyncio_deferred():
    import structlog

get_logger = structlog.get_logger

_LEVELS = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARNING: 30, LogLevel.ERROR: 40}
# syslog's numbers, which the journal understands at the start of a line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class Outlet:
    """Where events go: a queue, and the thread that renders what is in it and writes it to a file descriptor."""

    def __init__(self, settings: Log, descriptor: int) -> None:
        self._descriptor = descriptor
        self._journal = _is_journal(descriptor)
        self._queue: SimpleQueue[dict[str, Any] | Callable[[], None] | None] = SimpleQueue()
        self._lost = 0
        self._lost_lock = threading.Lock()
        self.apply(settings)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def apply(self, settings: Log) -> None:
        """Change level and format from here on; loggers that were bound before keep their level."""
        if settings.format is LogFormat.JSON:
            encode = JSONEncoder(default=str).encode  # json.dumps would make a new one for each line
            self._render: Any = lambda _logger, _level, event: encode(event)
        else:
            self._render = structlog.dev.ConsoleRenderer(colors=os.isatty(self._descriptor))
        structlog.configure(
            processors=[_with_level_and_time, structlog.processors.format_exc_info, _as_argument],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
            logger_factory=lambda *_: self,
        )

    def submit(self, event: dict[str, Any] | Callable[[], None]) -> None:
        """Take an event for writing. Never blocks, never fails."""
        if self._queue.qsize() < QUEUE_LENGTH:
            self._queue.put(event)
        else:
            with self._lost_lock:
                self._lost += 1

    # What structlog calls, by level.
    debug = info = warning = error = critical = submit

    def later(self, tell: Callable[[], None]) -> None:
        """Call `tell`, which logs, on the thread that writes: for who has no time now. Never blocks, never fails."""
        self.submit(tell)

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left, for at most `timeout` seconds. Later events are lost."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _write_all(self) -> None:
        closed = False
        while not closed or not self._queue.empty():
            item = self._queue.get()
            sleep(_GATHER)
            lines: list[str] = []
            # What an item logs while it is called comes into the queue behind it, also at the end.
            while True:
                if item is None:
                    closed = True
                elif callable(item):
                    item()
                else:
                    lines.append(self._line(item))
                if self._queue.empty() or len(lines) == _TOGETHER:
                    break
                item = self._queue.get()
            del item  # it may refer to a message of megabytes, and the next one can be long in coming
            if self._lost:
                lines.append(self._line(self._losses()))
            # All in one: each write gives the interpreter away and has to fight for it again.
            self._write("".join(lines))

    def _losses(self) -> dict[str, Any]:
        with self._lost_lock:
            lost, self._lost = self._lost, 0
        event = {"event": "log events were dropped, stderr is too slow", "count": lost}
        return _with_level_and_time(None, "warning", event)

    def _line(self, event: dict[str, Any]) -> str:
        level = event["level"]
        try:
            text: str = self._render(None, level, {key: _harmless(key, value) for key, value in event.items()})
        except Exception as error:  # a value that can't be printed must not end the log
            text = f"an event could not be rendered: {type(error).__name__}"
        if self._journal:
            prefix = f"<{_PRIORITIES[level]}>"
            text = prefix + text.replace("\n", f"\n{prefix}")
        return f"{text}\n"

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            # Nobody reads stderr any more; there is no other place to say so.
            return


def start(settings: Log, descriptor: int = 2) -> Outlet:
    """Log to `descriptor` from now on; what is queued at the end of the process is still written."""
    outlet = Outlet(settings, descriptor)
    atexit.register(outlet.close)
    return outlet


def _with_level_and_time(_logger: object, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    level = "error" if method == "exception" else method
    return {"timestamp": time(), "level": level, "event": event.pop("event", ""), **event}


def _as_argument(_logger: object, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], dict[str, Any]]:
    return (event,), {}


def _harmless(key: str, value: object) -> object:
    match value:
        case bool() | int() | None:
            return value
        case float() if key == "timestamp":
            return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
        case float():
            return round(value, 6)
        case _ if key == "exception":
            return _cut(str(value), LONGEST_TRACEBACK)
        case _:
            return escape(_cut(str(value), LONGEST_VALUE))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def _is_journal(descriptor: int) -> bool:
    """Whether systemd has connected `descriptor` to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
