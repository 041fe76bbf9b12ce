"""The service as a process of its own, as systemd would run it: started, watched by its log, ended or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nri_flox.demo import traces

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGE_PARENT = Path(__file__).parents[2]
_STOP_SECONDS = 10.0


class Plugin:
    """`nri-flox run` with `settings` (config sections by name); its config and log lie in `directory`."""

    def __init__(self, directory: Path, settings: Mapping[str, Mapping[str, object]]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.config_file = directory / "config.toml"
        self.log_file = directory / "plugin.log"
        self.log_file.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_before = 0
        self.configure(settings)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process; raises `RuntimeError` while it does not run."""
        if self._process is None:
            raise RuntimeError("this plugin does not run")
        return self._process.pid

    def configure(self, settings: Mapping[str, Mapping[str, object]]) -> None:
        """Writes the config anew; the running plugin reads it at SIGHUP."""
        text = ""
        for section, keys in settings.items():
            text += f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
        self.config_file.write_text(text)

    def start(self) -> None:
        """Starts it and returns at once."""
        self._logged_before = self.log_file.stat().st_size
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nri_flox", "run", "--config", self.config_file],
                env={**os.environ, "PYTHONPATH": str(_PACKAGE_PARENT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_connected(self, times: int = 1, timeout: float = 10.0) -> None:
        """Waits until the runtime has told it all pods, for the `times`th time since its start; raises
        `TimeoutError` with the end of its log."""
        self.wait_for("synchronized", times, timeout)

    def wait_for(self, event: str, times: int = 1, timeout: float = 10.0) -> dict[str, Any]:
        """The `times`th `event` in its log since its start, once it is there; raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while True:
            found = [entry for entry in self.log() if entry.get("event") == event]
            if len(found) >= times:
                return found[times - 1]
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                why = "it ended" if ended else f"not within {timeout} s"
                tail = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-15:])
                raise TimeoutError(f"the plugin logged no {event} ({why}); its log ends with:\n{tail}")
            time.sleep(0.005)

    def log(self) -> list[dict[str, Any]]:
        """Its log entries since its start; a line that is no JSON is an entry with the key `text` alone."""
        with open(self.log_file, errors="replace") as file:
            file.seek(self._logged_before)
            # What follows the last line end is still being written.
            return [_entry(line) for line in file.read().split("\n")[:-1]]

    def send(self, which: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, which)

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL if that is of no use; gives the exit status, None if it did not run."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, for it and what it has started."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        traces.end_processes(self.config_file.parent)
        return process.wait() if process is not None else None


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"text": line}


def _toml(value: object) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
