"""The Go side as seen from here: built binaries, and the runtime as a child process that is told what to do.

What the runtime can do is defined by `go/runtime/main.go`; it measures, this module only carries commands.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nri_flox.demo import packages

GO = Path(__file__).parent / "go"


class RigError(Exception):
    """The Go side could not be built, or a plugin did not do what is measured."""


def build(into: Path) -> None:
    """Build every command of the Go module as a static binary in `into`."""
    into.mkdir(parents=True, exist_ok=True)
    command = ["go", "build", "-trimpath", "-o", f"{into}/", "./..."]
    try:
        subprocess.run(
            command, cwd=GO, env={**packages.go(), "CGO_ENABLED": "0"}, check=True, capture_output=True, text=True
        )
    except packages.Unavailable as error:
        raise RigError(f"the runtime that measures can't be built: {error}") from None
    except subprocess.CalledProcessError as error:
        raise RigError(f"{' '.join(command)} failed in {GO}:\n{error.stderr}") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an adjustment holds."""

    mounts: int
    env: int
    annotations: int
    size: int  # bytes, serialised


@dataclass(frozen=True, slots=True)
class Connected:
    """A plugin that has registered and knows the node. Times in seconds."""

    pid: int
    registered: float
    synchronized: float


class Runtime:
    """A runtime with one plugin at most. Every method raises RigError when the plugin misbehaves."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def connect(self, argv: Sequence[str], log: Path) -> Connected:
        """Start a plugin and wait until it has been synchronised; its output is appended to `log`."""
        reply = self._call(do="connect", argv=list(argv), log=str(log))
        return Connected(reply["pid"], reply["registered_ns"] / 1e9, reply["synchronize_ns"] / 1e9)

    def record(self, answer: Path) -> Answer:
        """Wait for the plugin's adjustment, write it to `answer`, and expect that very one from now on."""
        reply = self._call(do="record", file=str(answer))
        return Answer(reply["mounts"], reply["env"], reply["annotations"], reply["bytes"])

    def await_answer(self) -> None:
        """Wait until the plugin adjusts containers."""
        self._call(do="record")

    def create(self, requests: int, *, pause: float = 0.0, bystander: bool = False) -> list[float]:
        """Create containers, with `pause` seconds before each, and return how long each took, in seconds."""
        reply = self._call(do="create", requests=requests, pause_us=round(pause * 1e6), bystander=bystander)
        return [taken / 1e9 for taken in reply["create_ns"]]

    def disconnect(self) -> None:
        """Stop the plugin."""
        self._call(do="disconnect")

    def _call(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RigError(f"the runtime ended with status {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RigError(f"{command['do']}: {reply['error']}")
        return reply


@contextmanager
def runtime(binary: Path, socket: Path, environment: str, store_path: str) -> Iterator[Runtime]:
    """A runtime that listens on `socket`, half of whose pods name `environment`; ends with its plugin."""
    argv = [str(binary), f"-socket={socket}", f"-environment={environment}", f"-store-path={store_path}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Runtime(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
