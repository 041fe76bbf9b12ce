"""The `floxhub` source: environments pulled and built by the Flox CLI, which knows FloxHub and Nix.

Only `flox pull` is ever run, never anything that activates: the hook of an environment is its author's code, and the
CLI runs on the node. Each credential has directories of its own, so what lies here says which token opened it; a record
beside each pull, written when it was whole, is both the proof and what a restarted service finds again.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from nri_flox.environments.command import Commands, Ended, identity
from nri_flox.environments.source import REFUSALS, Found, Missing, ends_all, fault_of
from nri_flox.flox.environment import Fault
from nri_flox.flox.reference import Mode, Reference
from nri_flox.flox.store import Store, StorePath
from nri_flox.flox.token import Lent
from nri_flox.flox.wording import clean

_RECORD = "pulled.json"
_RECORD_VERSION = 1
_UNSOUND = "unsound"  # stands beside the record while the directory that it names can't be relied on
_PULL = "pull-"
_SCRATCH = "scratch-"
_MAX_RECORD = 64 * 1024  # bytes
# So much of a token, or a token shorter than that, is not to be seen in any text.
_TELLING = 12  # characters
_XDG = ("CONFIG", "CACHE", "DATA", "STATE")
_PATH = "/usr/local/bin:/usr/bin:/bin:/nix/var/nix/profiles/default/bin"

# What passes from the service's env to the CLI's: where trust and proxies are said, nothing else.
_PASSED = re.compile(
    r"(PATH|LANG|LC_\w+|TZ|NIX_\w+|SSL_CERT_\w+|CURL_CA_BUNDLE|GIT_SSL_CAINFO|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy)"
)

# The CLI's words, by what they mean. They differ a little by version; what none of these knows is taken for passing.
_MEANINGS = (
    (Fault.NO_SPACE, r"no space left on device|disk quota exceeded|database or disk is full"),
    (
        Fault.UNSUPPORTED_SYSTEM,
        r"not (?:yet )?compatible with (?:your|the current) system|not supported on your system",
    ),
    (
        Fault.TOKEN_REFUSED,
        (
            r"you do not have permission to pull|access denied to the remote environment|environment: access denied"
            r"|could not access the environment|re-?authenticate|token (?:has |is )?expired|unauthori[sz]ed"
        ),
    ),
    (
        Fault.NOT_FOUND,
        (
            r"environment \S+ does not exist|environment not found in floxhub|environment: ref not found"
            r"|generation \d+ not found"
        ),
    ),
    (
        Fault.UNREACHABLE,
        (
            r"could not resolve host|connection (?:refused|reset)|timed out|network (?:is )?unreachable"
            r"|ensure that you have network connectivity|failed to (?:open environment metadata|fetch environment)"
            r"|failed to fetch updates for environment"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Cli:
    """How the CLI is run: `flox.executable`, `flox.user`, `flox.environment`, and how long it may take (seconds)."""

    executable: str
    user: str | None
    environment: Mapping[str, str]
    timeout: float


class FloxHubSource:
    place = "on FloxHub"
    is_local = False
    closure_listed = False

    def __init__(self, state_dir: str, store: Store, cli: Cli, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._root = os.path.join(state_dir, "floxhub")
        self._store = store
        self._cli = cli
        self._wall_clock = wall_clock
        self._commands = Commands()
        self._sweep()

    def stop(self) -> None:
        self._commands.stop()

    def look(self, reference: Reference, mode: Mode, lent: Lent | None) -> Found | None:
        record = _read_record(self._place(reference, mode, lent))
        if record is None or mode not in record.outputs:
            return None
        path = record.outputs[mode]
        if not os.path.lexists(self._store.locate(path)):
            return None
        age = self._wall_clock() - record.checked
        # A clock that was set back makes an age meaningless; such a record proves nothing by itself.
        checked = time.monotonic() - age if age >= 0 else float("-inf")
        return Found(path, reference.generation, checked)

    def fetch(self, reference: Reference, mode: Mode, lent: Lent | None, *, metrics: bool) -> Found:
        began, checked = time.monotonic(), self._wall_clock()
        place = self._place(reference, mode, lent)
        try:
            self._make_home(lent)
            os.makedirs(place, exist_ok=True)
            record = self._pull(reference, place, lent, metrics=metrics)
            if mode not in record.outputs:
                raise Missing(
                    Fault.BROKEN, f"the Flox CLI left no link to the {mode} output of {reference}; is it too old?"
                )
            _write_record(place, replace(record, checked=checked))
            _forget(place, _UNSOUND)
            _tidy(place, record.directory)
        except Missing as missing:
            if missing.fault in REFUSALS:
                everywhere = ends_all(missing.fault, reference)
                for generation in os.listdir(os.path.dirname(place)) if everywhere else [os.path.basename(place)]:
                    _forget(os.path.join(os.path.dirname(place), generation), _RECORD)
            raise
        except OSError as error:
            fault = fault_of(error)
            what = "" if fault is Fault.NO_SPACE else "the Flox CLI could not be run: "
            raise Missing(fault, clean(f"{what}{error}")) from None
        return Found(record.outputs[mode], reference.generation, began)

    def _pull(self, reference: Reference, place: str, lent: Lent | None, *, metrics: bool) -> _Record:
        """Pull into the directory of an earlier pull where that is of use, else into a new one. Raises Missing."""
        known = _read_record(place)
        if known is not None and not reference.pinned:
            updated = self._update(known, reference, place, lent, metrics=metrics)
            if updated is not None:
                return updated
        # The earlier one stays until the new one is whole: its links keep Nix's collector away.
        _tidy(place, known.directory if known is not None else "")
        # Never a name twice: a CLI that outlived a killed service may still be writing to the one that it was given.
        name = f"{_PULL}{os.urandom(4).hex()}"
        directory = os.path.join(place, name)
        os.mkdir(directory, 0o700)
        self._give(directory)
        exactly = ["--copy", "--generation", str(reference.generation)] if reference.pinned else []
        ended = self._flox(["pull", *exactly, "--dir", directory, reference.environment], lent, metrics=metrics)
        if ended.status != 0:
            raise self._missing(ended, lent)
        return _Record(0, name, self._outputs(directory, reference))

    def _update(
        self, known: _Record, reference: Reference, place: str, lent: Lent | None, *, metrics: bool
    ) -> _Record | None:
        """Bring an earlier pull to the live generation; None where it can't be relied on. Raises Missing.

        An update that was not whole leaves a directory that the CLI calls up to date while its links are old, so
        none is used twice unless the last use is known to have ended well.
        """
        if os.path.exists(os.path.join(place, _UNSOUND)):
            return None
        open(os.path.join(place, _UNSOUND), "xb").close()
        directory = os.path.join(place, known.directory)
        ended = self._flox(["pull", "--dir", directory], lent, metrics=metrics)
        if ended.status != 0:
            missing = self._missing(ended, lent)
            if missing.fault is Fault.BROKEN:
                return None  # Perhaps only the directory is broken, after a crash say. A new one tells.
            raise missing
        outputs = self._outputs(directory, reference)
        here = all(os.path.lexists(self._store.locate(path)) for path in outputs.values())
        return _Record(0, known.directory, outputs) if here else None

    def _flox(self, arguments: list[str], lent: Lent | None, *, metrics: bool) -> Ended:
        home = self._home(lent)
        # The CLI writes the token into a file for Nix, and takes it away only when it ends by itself. The directory
        # lies where its user can't put a link in its place before it is given to him.
        scratch = os.path.join(self._credential(lent), f"{_SCRATCH}{os.urandom(4).hex()}")
        os.mkdir(scratch, 0o700)
        try:
            self._give(scratch)
            return self._run(arguments, home, scratch, lent, metrics=metrics)
        finally:
            _remove(scratch)

    def _run(self, arguments: list[str], home: str, scratch: str, lent: Lent | None, *, metrics: bool) -> Ended:
        env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
        env.setdefault("PATH", _PATH)
        env |= {
            "HOME": home,
            "TMPDIR": scratch,
            **{f"XDG_{kind}_HOME": os.path.join(home, kind.lower()) for kind in _XDG},
            **{f"FLOX_{kind}_DIR": os.path.join(home, kind.lower(), "flox") for kind in _XDG},
            "FLOX_CACHE_DIR": scratch,
        }
        env |= self._cli.environment
        if not metrics:
            env["FLOX_DISABLE_METRICS"] = "1"
        if lent is not None:
            env["FLOX_FLOXHUB_TOKEN"] = lent.token.reveal()
        return self._commands.run(
            [self._cli.executable, *arguments],
            env,
            cwd=home,
            user=self._cli.user,
            timeout=self._cli.timeout,
        )

    def _missing(self, ended: Ended, lent: Lent | None) -> Missing:
        if ended.status is None:
            return Missing(Fault.UNREACHABLE, f"the pull took longer than {self._cli.timeout:g} s and was stopped")
        said = ended.output
        words = clean(_last_words(said if lent is None else said.replace(lent.token.reveal(), "…")), 300)
        if lent is not None and _tells(words, lent.token.reveal()):
            words = "its words are left out, for they hold the token"
        for fault, pattern in _MEANINGS:
            if re.search(pattern, said, re.IGNORECASE):
                if fault is Fault.UNSUPPORTED_SYSTEM:
                    return Missing(fault, _system())
                if fault is Fault.TOKEN_REFUSED and lent is None:
                    # Without a token there is none to refuse: the environment is private, or not there at all.
                    return Missing(Fault.NOT_FOUND, words)
                return Missing(fault, words)
        return Missing(Fault.BROKEN, f"`flox pull` ended with status {ended.status}: {words}")

    def _outputs(self, directory: str, reference: Reference) -> dict[Mode, StorePath]:
        """What the links of a pull lead to. Names: `<system>.<name>-run`, before the summer of 2026 `.run`."""
        links = os.path.join(directory, ".flox", "run")
        outputs: dict[Mode, StorePath] = {}
        for mode in Mode:
            for mark in "-.":
                link = os.path.join(links, f"{_system()}.{reference.name}{mark}{mode}")
                try:
                    outputs[mode] = StorePath.parse(os.readlink(link))
                    break
                except OSError:
                    continue
                except ValueError:
                    raise Missing(Fault.BROKEN, f"a link of the pull of {reference} leads to no store path") from None
        return outputs

    def _credential(self, lent: Lent | None) -> str:
        return os.path.join(self._root, lent.credential if lent else "public")

    def _home(self, lent: Lent | None) -> str:
        return os.path.join(self._credential(lent), "home")

    def _place(self, reference: Reference, mode: Mode, lent: Lent | None) -> str:
        """The directory for what one credential sees of one reference: a record, and the directories of pulls.

        One for each mode, although a pull brings both: attempts for them may be under way at the same time.
        """
        generation = f"{reference.generation or 'live'}-{mode}"
        return os.path.join(self._credential(lent), "environments", reference.owner, reference.name, generation)

    def _make_home(self, lent: Lent | None) -> None:
        home = self._home(lent)
        os.makedirs(self._root, mode=0o711, exist_ok=True)  # who uses a token is nobody else's business
        os.makedirs(self._credential(lent), exist_ok=True)
        with suppress(FileExistsError):  # another worker may be as far
            os.mkdir(home, 0o700)
        self._give(home)

    def _sweep(self) -> None:
        """Remove what the CLIs of a service that was killed had for the moment."""
        for credential in os.listdir(self._root) if os.path.isdir(self._root) else ():
            place = os.path.join(self._root, credential)
            for name in os.listdir(place):
                if name.startswith(_SCRATCH):
                    _remove(os.path.join(place, name))

    def _give(self, directory: str) -> None:
        if self._cli.user is not None:
            os.chown(directory, *identity(self._cli.user))


@dataclass(frozen=True, slots=True)
class _Record:
    """That a pull was whole: when its check began (seconds since 1970), its directory, and its outputs."""

    checked: float
    directory: str
    outputs: Mapping[Mode, StorePath]


def _read_record(place: str) -> _Record | None:
    """None when there is none, or none of this version that can be understood: then it is pulled anew."""
    try:
        with open(os.path.join(place, _RECORD), "rb") as file:
            found = json.loads(file.read(_MAX_RECORD))
        if found["version"] != _RECORD_VERSION or not found["directory"].startswith(_PULL):
            return None
        outputs = {Mode(mode): StorePath.parse(output) for mode, output in found["outputs"].items()}
        return _Record(float(found["checked"]), os.path.basename(found["directory"]), outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _write_record(place: str, record: _Record) -> None:
    path = os.path.join(place, _RECORD)
    outputs = {str(mode): str(output) for mode, output in record.outputs.items()}
    content = {
        "version": _RECORD_VERSION,
        "checked": record.checked,
        "directory": record.directory,
        "outputs": outputs,
    }
    with open(path + ".new", "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)


def _forget(place: str, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(place, name))


def _tidy(place: str, directory: str) -> None:
    """Remove the directories of all pulls but the one in `directory`."""
    for name in os.listdir(place):
        if name.startswith(_PULL) and name != directory:
            _remove(os.path.join(place, name))


def _remove(directory: str) -> None:
    """As far as possible: the CLI of a killed service may still write to it, and the rest goes the next time."""
    from shutil import rmtree  # It brings in every archive format; only this needs it.

    rmtree(directory, ignore_errors=True)


def _last_words(output: str) -> str:
    """What the CLI gives as its error, or its last line that says anything."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # The last one counts: before it may come that a token can't be read, upon which the CLI goes on without.
    said = " ".join(lines).rpartition("ERROR:")[2].strip() if any("ERROR:" in line for line in lines) else ""
    return said or (lines[-1] if lines else "it said nothing")


def _tells(text: str, token: str) -> bool:
    """Whether `text` holds a telling part of `token`, which may be cut short or wrapped over lines."""
    joined = "".join(text.split())
    return any(token[at : at + _TELLING] in joined for at in range(max(1, len(token) - _TELLING + 1)))


def _system() -> str:
    """What Nix calls this machine, as in `x86_64-linux`."""
    return f"{os.uname().machine}-linux"
