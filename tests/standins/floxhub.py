"""A directory that plays FloxHub for the stand-in of the Flox CLI beside this file.

Tests publish environments here, turn knobs (slow, unreachable, refusing, killed half way), and read
afterwards what the CLI was called with. Everything is in files, so the stand-in needs nothing but the
directory; the variable that `environment` gives tells it, and goes into the config as `flox.environment`.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.standins.nixstore import NIX_CONFIG, NixStore

FLOX: Final = Path(__file__).with_name("flox")
SYSTEM: Final = f"{os.uname().machine}-linux"

Failure = Literal[
    "network",
    "refused",
    "timeout",
    "missing",
    "denied",
    "expired",
    "unsupported",
    "no-space",
    "build",
    "garbage",
]

Stage = Literal["ask", "open", "build"]
"""How far a pull is: before FloxHub answers; the environment is locked but not built; half of its closure is there."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of the CLI. Times are in nanoseconds since 1970; a call that was killed never stopped."""

    argv: list[str]
    reference: str
    """The environment that it was about, also where only a directory was named; or empty."""
    environment: list[str]
    """Names of its variables, the token's left out."""
    home: str
    metrics_disabled: bool
    token: str | None
    """`FloxHub.fingerprint` of the token that it was given."""
    uid: int
    pid: int
    own_group: bool
    """Whether it leads a process group."""
    cwd: str
    inherited: list[int]
    """Open file descriptors beyond the standard three."""
    child: int | None
    """The process that it left behind, if it was told to."""
    started: int
    stopped: int | None
    status: int | None


class FloxHub:
    """FloxHub in `directory`; with a store, pulls bring the closure into it and register it, as Nix would."""

    def __init__(self, directory: Path, store: NixStore | None = None) -> None:
        self.directory = directory
        self.store = store
        self._salt = secrets.token_hex(8)
        self._malformed: list[str] = []
        self._knobs: dict[str, dict[str, object]] = {}
        directory.mkdir(parents=True)
        for name, mode in ((".cache", 0o755), (".journal", 0o1777), (".partly", 0o1777), (".alarms", 0o1777)):
            (directory / name).mkdir()
            (directory / name).chmod(mode)  # the CLI may run as a user of its own
        self._write_settings()
        self._write("knobs.json", self._knobs)

    @property
    def environment(self) -> dict[str, str]:
        """What the stand-in must find in its environment: the value for `flox.environment`."""
        return {"FLOX_STANDIN_HUB": str(self.directory)}

    def publish(
        self,
        reference: str,
        *,
        run: str,
        dev: str | None = None,
        generation: int | None = None,
        private_to: Iterable[str] | None = None,
        systems: Collection[str] = (SYSTEM,),
        live: bool = True,
    ) -> int:
        """Publish a generation and give its number: the next one, or one that is replaced.

        `run` and `dev` are store paths, valid in the store if there is one; their closures are copied, so
        that the store can forget them (`NixStore.gc`) and a pull brings them back. `private_to`: tokens
        that open it; None leaves it as public or private as it was.
        """
        place = self.directory / reference
        (place / "generations").mkdir(parents=True, exist_ok=True)
        number = generation or len(os.listdir(place / "generations")) + 1
        outputs = {"run": run, "dev": dev or run}
        lock = self._lock(run, reference, number)
        closure = self._cache(set(outputs.values()))
        record = {**outputs, "systems": list(systems), "closure": closure, "lock": lock}
        self._write(f"{reference}/generations/{number}", record)
        if private_to is not None:
            self.permit(reference, private_to)
        if live:
            self.make_live(reference, number)
        return number

    def make_live(self, reference: str, generation: int) -> None:
        """Make a published generation the live one, as a push or a rollback does."""
        history = self.directory / reference / "history"
        lived = history.read_text().split() if history.exists() else []
        self._write_text(f"{reference}/history", " ".join([*lived, str(generation)]))

    def permit(self, reference: str, tokens: Iterable[str] | None) -> None:
        """Say which tokens open an environment from now on; None makes it public."""
        if tokens is None:
            (self.directory / reference / "private").unlink(missing_ok=True)
        else:
            self._write(f"{reference}/private", [self.fingerprint(token) for token in tokens])

    def delete(self, reference: str) -> None:
        """Take an environment from FloxHub."""
        shutil.rmtree(self.directory / reference)

    def malform(self, token: str) -> None:
        """Make a token one that the CLI cannot read: it complains, and goes on as if there were none."""
        self._malformed.append(self.fingerprint(token))
        self._write_settings()

    def knob(
        self,
        reference: str = "*",
        *,
        fail: Failure | None = None,
        times: int | None = None,
        delay: float = 0,
        hang: Stage | None = None,
        ignore_sigterm: bool = False,
        kill: Stage | None = None,
        child: float = 0,
        publish: int | None = None,
        noise: str = "",
        version: str | None = None,
    ) -> None:
        """Set how pulls of an environment go from now on (`*`: of all; the own knobs are laid over those).

        What is not named goes as usual. `times`: only for the next so many calls (not for `*`). `delay`: seconds
        before FloxHub answers. `hang`, `kill`: where the CLI stops for good, or is killed. `child`: a process of
        its group outlives it for so many seconds and holds its outputs open. `publish`: this generation becomes
        the live one after FloxHub has answered. `noise`: goes to stderr first. `version`: of the CLI, only for
        `*`.
        """
        knobs: dict[str, object] = {
            "fail": fail,
            "times": times,
            "delay": delay,
            "hang": hang,
            "ignore_sigterm": ignore_sigterm,
            "kill": kill,
            "child": child,
            "publish": publish,
            "noise": noise,
            "version": version,
        }
        self._knobs[reference] = {name: value for name, value in knobs.items() if value}
        self._knobs[reference]["turned"] = time.time_ns()
        self._write("knobs.json", self._knobs)

    def fingerprint(self, token: str) -> str:
        """What the journal holds in place of a token."""
        return hashlib.sha256((self._salt + token).encode()).hexdigest()[:16]

    def invocations(self, reference: str | None = None) -> list[Invocation]:
        """The calls so far, oldest first: all, or those about one environment."""
        journal = self.directory / ".journal"
        found = [Invocation(**json.loads((journal / name).read_text())) for name in sorted(os.listdir(journal))]
        return [one for one in found if reference in (None, one.reference)]

    def alarms(self) -> list[str]:
        """What was done that a node agent must never do. A test of the service ends with none."""
        places = self.directory / ".alarms"
        return [line for name in sorted(os.listdir(places)) for line in (places / name).read_text().splitlines()]

    def _lock(self, run: str, reference: str, number: int) -> str:
        """The rendered environment's own lock file, or, where it has none, one that is unlike any other."""
        if self.store is not None:
            rendered = self.store.locate(run) / "manifest.lock"
            if rendered.is_file():
                return rendered.read_text()
        return json.dumps({"environment": reference, "generation": number})

    def _cache(self, outputs: Collection[str]) -> list[str]:
        """Copy the closure of the outputs, with its rows for Nix's database. Gives its paths."""
        if self.store is None:
            return []
        closure = self.store.query_requisites(*sorted(outputs))
        for path, row in self.store.rows(closure).items():
            cached = self.directory / ".cache" / Path(path).name
            if not cached.with_name(f"{cached.name}.row").exists():
                _copy(self.store.locate(path), cached)
                self._write_text(f".cache/{cached.name}.row", row)
        return closure

    def _write_settings(self) -> None:
        store = None
        if self.store is not None:
            executable = shutil.which("nix-store")
            store = {"root": str(self.store.directory), "executable": executable, "config": NIX_CONFIG}
        self._write(".hub.json", {"salt": self._salt, "malformed": self._malformed, "store": store})

    def _write(self, relative: str, value: object) -> None:
        self._write_text(relative, json.dumps(value))

    def _write_text(self, relative: str, text: str) -> None:
        partly = self.directory / ".partly" / secrets.token_hex(8)
        partly.write_text(text)
        partly.rename(self.directory / relative)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
