"""A real, private Nix store for tests: Debian's `nix-bin` as a single user, offline, without a daemon.

Store paths are written `/nix/store/...` as everywhere, and lie physically below a directory of the test
(`--store local?root=DIR`), so nothing of the machine's own `/nix` is read or touched. Paths are put there
as plain files and registered in Nix's database with the references that the test names: one call of
`nix-store` however many there are, no builder and no network, and the same rows that a build would leave.
The hashes in the database are the true ones, so `verify` notices when anybody changes a file of the store.
Not for evaluating or building Nix code.
"""

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOGICAL: Final = "/nix/store"

_BASE32: Final = "0123456789abcdfghijklmnpqrsvwxyz"

# No substituters, no build users, and nothing that costs time for the sake of a power cut.
NIX_CONFIG: Final = """
substitute = false
sandbox = false
build-users-group =
fsync-metadata = false
gc-reserved-space = 0
"""


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink in a tree, or a store path that is one itself: `Link("/")` is the nastiest."""

    target: str


Leaf = bytes | str | Link
Tree = Leaf | Mapping[str, Leaf]
"""What a store path holds: files and links by relative path, or one file, or one link. A file in a `bin` or
`sbin`, and one that opens with `#!`, is executable."""


@dataclass(frozen=True, slots=True)
class Package:
    """A store path to be: its name after the hash, what it holds, which store paths it refers to."""

    name: str
    tree: Tree
    references: tuple[str, ...] = ()


def available() -> bool:
    """Whether this machine has Nix at all (Debian's package `nix-bin`)."""
    return shutil.which("nix-store") is not None


class NixStore:
    """A Nix store: files in `directory`/nix/store, state in `directory`/nix/var/nix."""

    def __init__(self, directory: Path) -> None:
        """Make the store, or open one that an earlier object made there."""
        self.directory = directory.resolve()
        self.store_dir = self.directory / "nix/store"
        self.state_dir = self.directory / "nix/var/nix"
        self.database = self.state_dir / "db/db.sqlite"
        if not self.database.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._nix("--init")

    @property
    def url(self) -> str:
        """What `--store` of any Nix command takes to use this store."""
        return f"local?root={self.directory}"

    def locate(self, path: str) -> Path:
        """Where a store path, or something in one, physically lies."""
        return self.store_dir / Path(path).relative_to(LOGICAL)

    def add(self, name: str, tree: Tree, references: Iterable[str] = ()) -> str:
        """Put one path into the store and register it. Gives `/nix/store/<hash>-<name>`."""
        return self.add_all([Package(name, tree, tuple(references))])[0]

    def add_all(self, packages: Iterable[Package]) -> list[str]:
        """Put many paths into the store with one call of Nix. They may refer to each other by `path_of`."""
        references: dict[str, tuple[str, ...]] = {}
        for package in packages:
            path = path_of(package.name, package.tree)
            if not os.path.lexists(self.locate(path)):
                _write(self.locate(path), package.tree)
            references[path] = package.references
        self.register(references)
        return list(references)

    def add_closure(self, name: str, count: int) -> str:
        """Put a path into the store whose closure has `count` paths, itself and one link to `/` among them.

        The first refers to all others, and each of those to one more, like packages to their libraries.
        """
        trees: list[tuple[str, Tree]] = [(f"{name}-root-link", Link("/"))]
        trees += [(f"{name}-{index}", {"share/text": f"{name} {index}\n"}) for index in range(2, count)]
        parts = [path_of(*tree) for tree in trees]
        packages = [Package(*tree, references=tuple(parts[:index][-1:])) for index, tree in enumerate(trees)]
        links = {f"parts/{Path(part).name}": Link(part) for part in parts}
        return self.add_all([*packages, Package(name, links, tuple(parts))])[-1]

    def add_environment(self, path: str) -> str:
        """Register a rendered environment that lies in the store already, and all of its `requisites.txt`.

        The environment refers to all of its requisites; those that no row knows yet refer to nothing.
        """
        listed = self.locate(path).joinpath("requisites.txt").read_text().split()
        unknown = self._invalid(set(listed) - {path})
        self.register({**dict.fromkeys(unknown, ()), path: {*listed, path}})
        return path

    def register(self, references: Mapping[str, Collection[str]]) -> None:
        """Make paths that lie in the store valid, each with what it refers to (valid, or given here too)."""
        for path in references:
            _canonicalise(self.locate(path))
        rows = (_row(path, *nar_hash(self.locate(path)), parts) for path, parts in references.items())
        self._nix("--load-db", text="".join(rows))

    def rows(self, paths: Collection[str]) -> dict[str, str]:
        """What Nix's database holds on valid paths, each in the form that `nix-store --load-db` takes."""
        lines = self._nix("--dump-db", *paths).splitlines()
        rows: dict[str, str] = {}
        while lines:
            end = 5 + int(lines[4])
            rows[lines[0]] = "".join(f"{line}\n" for line in lines[:end])
            del lines[:end]
        return rows

    def root(self, name: str, path: str) -> None:
        """Keep a path from `gc`."""
        (self.state_dir / "gcroots" / name).symlink_to(path)

    def gc(self) -> list[str]:
        """Collect garbage with Nix's own collector. Gives the paths that went, registered ones or not."""
        before = set(os.listdir(self.store_dir))
        self._nix("--gc")
        return sorted(f"{LOGICAL}/{name}" for name in before - set(os.listdir(self.store_dir)))

    def is_valid(self, path: str) -> bool:
        """Whether Nix's database knows the path. That it lies in the store is not enough."""
        return not self._invalid([path])

    def query_requisites(self, *paths: str) -> list[str]:
        """The closure of valid paths, themselves included; what is referred to goes first."""
        return self._nix("--query", "--requisites", *paths).split()

    def query_references(self, path: str) -> list[str]:
        """What a valid path itself refers to."""
        return self._nix("--query", "--references", path).split()

    def verify(self) -> list[str]:
        """What Nix finds wrong with the store, every file read: nothing when all is well."""
        checked = self._run("--verify", "--check-contents")
        noise = ("reading the", "checking ")
        return [line for line in checked.stderr.splitlines() if not line.startswith(noise)]

    def _invalid(self, paths: Collection[str]) -> list[str]:
        return self._nix("--check-validity", "--print-invalid", *paths).split() if paths else []

    def _nix(self, *arguments: str, text: str = "") -> str:
        done = self._run(*arguments, text=text)
        if done.returncode:
            raise RuntimeError(f"nix-store {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "NIX_CONFIG": NIX_CONFIG}
        command = ["nix-store", "--store", self.url, *arguments]
        return subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)


def path_of(name: str, tree: Tree) -> str:
    """The store path that `NixStore.add` gives to this name and content, whatever it refers to."""
    digest = hashlib.sha256(name.encode() + b"\0")
    for relative, leaf in sorted(_leaves(tree)):
        digest.update(repr((relative, leaf)).encode())
    number = int.from_bytes(digest.digest()[:20], "big")
    return f"{LOGICAL}/{''.join(_BASE32[number >> 5 * place & 31] for place in range(32))}-{name}"


def nar_hash(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and size of a path as a Nix archive, the form in which Nix hashes what it stores."""
    digest, size = hashlib.sha256(), 0
    for chunk in (_archived(b"nix-archive-1"), *_archive(path)):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _row(path: str, digest: str, size: int, references: Collection[str]) -> str:
    """A record as `nix-store --load-db` reads it: path, hash, size, deriver, references and their number."""
    return "".join(f"{line}\n" for line in (path, digest, size, "", len(references), *references))


def _archive(path: Path) -> Iterator[bytes]:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        yield _archived(b"(", b"type", b"symlink", b"target", os.fsencode(path.readlink()), b")")
    elif stat.S_ISDIR(mode):
        yield _archived(b"(", b"type", b"directory")
        for name in sorted(map(os.fsencode, os.listdir(path))):
            yield _archived(b"entry", b"(", b"name", name, b"node")
            yield from _archive(path / os.fsdecode(name))
            yield _archived(b")")
        yield _archived(b")")
    else:
        executable = [b"executable", b""] if mode & 0o100 else []
        yield _archived(b"(", b"type", b"regular", *executable, b"contents", path.read_bytes(), b")")


def _archived(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(8, "little") + text + bytes(-len(text) % 8) for text in texts)


def _leaves(tree: Tree) -> Iterator[tuple[str, Leaf]]:
    if isinstance(tree, Mapping):
        yield from tree.items()
    else:
        yield "", tree


def _write(path: Path, tree: Tree) -> None:
    if isinstance(tree, Mapping):
        path.mkdir()
    for relative, leaf in _leaves(tree):
        place = path / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(leaf, Link):
            place.symlink_to(leaf.target)
            continue
        content = leaf.encode() if isinstance(leaf, str) else leaf
        place.write_bytes(content)
        if place.parent.name in ("bin", "sbin") or content.startswith(b"#!"):
            place.chmod(0o555)


def _canonicalise(path: Path) -> None:
    """Give everything the modes and the time that Nix gives to what it stores.

    Follows no link, the path itself least of all: it may be one to `/`.
    """
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for name in os.listdir(path):
            _canonicalise(path / name)
    if not stat.S_ISLNK(mode):
        path.chmod(0o555 if mode & 0o111 else 0o444)
    os.utime(path, (1, 1), follow_symlinks=False)
