"""Running the Flox CLI: one command in a session of its own, watched, bounded, and gone when it is over.

Whatever the command does, the caller gets an answer by the deadline, its output is bounded, and no process of its
group outlives it.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_KEPT = 64 * 1024  # bytes of output, the last ones


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status (negative: the signal), or None when it was stopped at the deadline."""

    status: int | None
    output: str


class Commands:
    """Runs commands, and can stop them all when the service ends."""

    def __init__(self) -> None:
        # Readable for good once `stop` was called, so that every wait sees it.
        self._stopping, self._stop = os.pipe2(os.O_CLOEXEC)

    def stop(self) -> None:
        os.write(self._stop, b"\0")

    def __del__(self) -> None:
        os.close(self._stopping)
        os.close(self._stop)

    def run(
        self, command: Sequence[str], env: Mapping[str, str], *, cwd: str, user: str | None, timeout: float
    ) -> Ended:
        """Run `command` with exactly `env`, as `user` (None: as the service), for at most `timeout` seconds.

        Its standard input is empty; both its outputs are kept as one. Raises OSError when it can't be started.
        """
        import subprocess  # For nodes that pull; others are spared its memory.

        deadline = time.monotonic() + timeout
        uid, gid = (None, None) if user is None else identity(user)
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # no terminal, and a process group of its own
            umask=0o077,
            user=uid,
            group=gid,
            extra_groups=None if user is None else (),
        )
        assert process.stdout is not None
        with process.stdout as pipe:
            try:
                output, ended = self._watch(process.pid, pipe.fileno(), deadline)
            finally:
                # The leader is not reaped yet, so its group id can't have become anybody else's.
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        return Ended(status if ended else None, output.decode(errors="replace"))

    def _watch(self, pid: int, pipe: int, deadline: float) -> tuple[bytes, bool]:
        """Output until the process has ended, and whether it has done so by itself before the deadline."""
        os.set_blocking(pipe, False)
        output = b""
        leader = os.pidfd_open(pid)
        try:
            poll = select.poll()
            for descriptor in (pipe, leader, self._stopping):
                poll.register(descriptor, select.POLLIN)
            while (left := deadline - time.monotonic()) > 0:
                ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
                if pipe in ready:
                    # A pipe holds no more than this, so nothing that the leader wrote before its end stays in it.
                    data = os.read(pipe, _KEPT)
                    output = (output + data)[-_KEPT:]
                    if not data:
                        poll.unregister(pipe)
                if leader in ready:
                    return output, True
                if self._stopping in ready:
                    break
            return output, False
        finally:
            os.close(leader)


def identity(user: str) -> tuple[int, int]:
    """User and group id of a user of this node. Raises OSError when there is none of that name."""
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise OSError(f"flox.user is {user!r}, and this node has no such user") from None
    return entry.pw_uid, entry.pw_gid
