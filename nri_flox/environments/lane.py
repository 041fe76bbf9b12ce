"""Lanes: a few worker threads behind one queue, for work that must not happen in a request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class Lane:
    """`width` threads that do what is put in, in order. `put` never waits.

    What work raises goes to `on_error`; the thread goes on.
    """

    def __init__(self, name: str, width: int, on_error: Callable[[str, Exception], None]) -> None:
        self._name = name
        self._on_error = on_error
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(width)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, work: Work) -> None:
        self._queue.put(work)

    def close(self, timeout: float) -> None:
        """Let every thread end after the work that it is at, and wait at most `timeout` seconds for each."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _work(self) -> None:
        while work := self._queue.get():
            try:
                work()
            except Exception as error:  # A worker outlives whatever one piece of work runs into.
                self._on_error(self._name, error)
            # What the work refers to, a pod's message among megabytes of its like, must not wait for the next.
            del work
