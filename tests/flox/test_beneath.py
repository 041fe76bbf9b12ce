"""Every way out of a directory, and every kind of file that is none."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nri_flox.flox.beneath import UnsafeFile, is_present, list_directory, read_regular


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory to read in, beside a secret that must not be read."""
    (tmp_path / "secret").write_text("of the node")
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "dir" / "file").write_text("content")
    return root


def read(root: Path, relative: str, limit: int = 100) -> bytes:
    return read_regular(str(root), relative, limit=limit)


def test_a_regular_file_is_read(root: Path) -> None:
    assert read(root, "dir/file") == b"content"


@pytest.mark.parametrize("size", [0, 99, 100])
def test_a_file_up_to_the_limit_is_read_whole(root: Path, size: int) -> None:
    (root / "sized").write_bytes(b"x" * size)
    assert read(root, "sized") == b"x" * size


def test_a_larger_file_is_refused(root: Path) -> None:
    (root / "sized").write_bytes(b"x" * 101)
    with pytest.raises(UnsafeFile, match="larger than 100 bytes"):
        read(root, "sized")


def test_a_huge_sparse_file_is_refused_at_once(root: Path) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnsafeFile, match="larger"):
        read(root, "huge", limit=4 << 20)


@pytest.mark.parametrize("name", ["nothing", "dir/nothing", "nothing/file", "dir/file/below", "dir/file/.."])
def test_what_is_not_there_is_not_found(root: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        read(root, name)


@pytest.mark.parametrize("target", ["file", "./file", "../dir/file", "/../dir/../dir/file"[1:]])
def test_a_relative_link_inside_is_followed(root: Path, target: str) -> None:
    (root / "dir" / "link").symlink_to(target)
    assert read(root, "dir/link") == b"content"


def test_the_links_of_a_secret_volume_are_followed(root: Path) -> None:
    (root / "..2026_01_01").mkdir()
    (root / "..2026_01_01" / "token").write_text("t")
    (root / "..data").symlink_to("..2026_01_01")
    (root / "token").symlink_to("..data/token")
    assert read(root, "token") == b"t"


@pytest.mark.parametrize(
    "target",
    [
        "../../secret",
        "../../root/dir/file",
        "..",
        "../..",
        "/etc/passwd",
        "/",
        "/proc/self/environ",
        "/dev/zero",
    ],
)
def test_a_link_that_leads_out_is_refused(root: Path, target: str) -> None:
    (root / "dir" / "link").symlink_to(target)
    with pytest.raises(UnsafeFile):
        read(root, "dir/link")


def test_an_absolute_link_to_the_very_file_is_refused_without_a_known_place(root: Path) -> None:
    (root / "link").symlink_to(root / "dir" / "file")
    with pytest.raises(UnsafeFile, match="out of its directory"):
        read(root, "link")


@pytest.mark.parametrize("relative", ["..", "../secret", "dir/../../secret", "dir/./../../root/dir/file"])
def test_a_path_that_climbs_out_is_refused(root: Path, relative: str) -> None:
    with pytest.raises(UnsafeFile, match="out of its directory"):
        read(root, relative)


def test_a_directory_that_is_a_link_out_is_refused(root: Path) -> None:
    (root / "away").symlink_to("..")
    with pytest.raises(UnsafeFile):
        read(root, "away/secret")


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(UnsafeFile, match="too many symlinks"):
        read(root, "a")


def test_a_link_that_grows_ends(root: Path) -> None:
    (root / "a").symlink_to("dir/../a/" + "dir/../" * 200 + "b")
    with pytest.raises(UnsafeFile, match="too many symlinks"):
        read(root, "a")


def test_a_deep_way_ends(root: Path) -> None:
    deep = root
    for _ in range(100):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    with pytest.raises(UnsafeFile, match="too many directories"):
        read(root, "d/" * 100 + "file")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("making a device needs root")


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    ("make", "kind"),
    [(_fifo, "a FIFO"), (_socket, "a socket"), (_device, "a device"), (Path.mkdir, "a directory")],
)
def test_what_is_no_file_is_refused_and_blocks_nobody(root: Path, make: Callable[[Path], None], kind: str) -> None:
    make(root / "odd")
    (root / "link").symlink_to("odd")
    for name in ("odd", "link"):
        with pytest.raises(UnsafeFile, match=kind):
            read(root, name)


def test_a_name_with_a_nul_is_refused(root: Path) -> None:
    with pytest.raises(UnsafeFile):
        read(root, "dir/fi\0le")


def test_a_file_that_grows_while_it_is_read_is_cut_at_the_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.read

    def growing(descriptor: int, size: int) -> bytes:
        with (root / "dir" / "file").open("ab") as file:
            file.write(b"more")
        return real(descriptor, min(size, 4))

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(UnsafeFile, match="larger"):
        read(root, "dir/file")


def test_a_file_that_is_replaced_after_it_was_examined_is_not_what_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def replacing(path: str, *args: int, **kwargs: int) -> int:
        if path.startswith("/proc/self/fd/"):
            (root / "dir" / "file").unlink()
            (root / "dir" / "file").symlink_to("../../secret")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", replacing)
    assert read(root, "dir/file") == b"content"


def test_no_switching_link_gets_a_secret_out(root: Path) -> None:
    """The race itself: a link that is a good one and a bad one in turns, as fast as it can be."""
    over = threading.Event()

    def switch() -> None:
        while not over.is_set():
            for target in ("dir", ".."):
                (root / "new").symlink_to(target)
                os.replace(root / "new", root / "switching")

    (root / "switching").symlink_to("dir")
    (root / "dir" / "secret").write_text("of the pod")
    switcher = threading.Thread(target=switch)
    switcher.start()
    try:
        outcomes = set()
        for _ in range(2000):
            try:
                outcomes.add(read(root, "switching/secret"))
            except UnsafeFile:
                outcomes.add(b"refused")
    finally:
        over.set()
        switcher.join()
    assert outcomes <= {b"of the pod", b"refused"}


def test_no_descriptor_is_left_open(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd")
    for name in ("dir/file", "nothing", "loop", "..", "dir"):
        try:
            read(root, name)
        except (UnsafeFile, FileNotFoundError):
            continue
    assert os.listdir("/proc/self/fd") == before


class TestAsAStore:
    """A root that links know under another path, and of whose children only some may be entered."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        store = tmp_path / "store"
        for name in ("own", "foreign"):
            (store / name / "bin").mkdir(parents=True)
            (store / name / "bin" / "tool").write_text(name)
        return store

    def read(self, store: Path, relative: str) -> bytes:
        return read_regular(str(store), relative, limit=100, known_as="/nix/store", admits={"own", "env"}.__contains__)

    @pytest.mark.parametrize("target", ["/nix/store/own/bin/tool", "../own/bin/tool", "/nix/store/./own//bin/tool"])
    def test_a_link_into_the_closure_is_followed(self, store: Path, target: str) -> None:
        (store / "env").mkdir()
        (store / "env" / "tool").symlink_to(target)
        assert self.read(store, "env/tool") == b"own"

    @pytest.mark.parametrize(
        "target",
        [
            "/nix/store/foreign/bin/tool",
            "../foreign/bin/tool",
            "/nix/store/own/../foreign/bin/tool",
            "/nix/store/foreign/../own/bin/tool",
            "/nix/store/../../secret",
            "/nix/store/nothing",
            "/nix/store",
            "/nix/storehouse/own/bin/tool",
            "/etc/passwd",
        ],
    )
    def test_a_link_elsewhere_is_refused(self, store: Path, target: str) -> None:
        (store / "env").mkdir()
        (store / "env" / "tool").symlink_to(target)
        with pytest.raises(UnsafeFile):
            self.read(store, "env/tool")

    def test_a_store_path_that_is_a_link_into_the_closure_is_followed(self, store: Path) -> None:
        (store / "env").symlink_to("/nix/store/own")
        assert self.read(store, "env/bin/tool") == b"own"

    @pytest.mark.parametrize("target", ["/", "/nix/store/foreign", "foreign", ".."])
    def test_a_store_path_that_is_a_link_elsewhere_is_refused(self, store: Path, target: str) -> None:
        (store / "env").symlink_to(target)
        with pytest.raises(UnsafeFile):
            self.read(store, "env/bin/tool")


class TestPresence:
    @pytest.mark.parametrize("target", ["file", "nowhere", "/etc/passwd", "entry"])
    def test_a_link_counts_wherever_it_leads(self, root: Path, target: str) -> None:
        (root / "dir" / "entry").symlink_to(target)
        assert is_present(str(root), "dir/entry")

    @pytest.mark.parametrize("make", [_fifo, Path.mkdir, Path.touch])
    def test_any_kind_of_entry_counts(self, root: Path, make: Callable[[Path], None]) -> None:
        make(root / "dir" / "entry")
        assert is_present(str(root), "dir/entry")

    @pytest.mark.parametrize("name", ["nothing", "nothing/entry", "dir/file/entry"])
    def test_nothing_is_not_present(self, root: Path, name: str) -> None:
        assert not is_present(str(root), name)

    def test_the_way_there_may_not_lead_out(self, root: Path) -> None:
        (root / "away").symlink_to("..")
        with pytest.raises(UnsafeFile):
            is_present(str(root), "away/secret")


def list_names(root: Path, relative: str, limit: int = 10) -> list[str]:
    return sorted(list_directory(str(root), relative, limit=limit))


def test_a_directory_is_listed_through_links_inside(root: Path) -> None:
    (root / "dir" / "other").touch()
    (root / "link").symlink_to("dir")
    assert list_names(root, "link") == ["file", "other"]


def test_names_that_are_not_utf_8_are_left_out_of_a_list(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root / "dir") + b"/\xff")).touch()
    assert list_names(root, "dir") == ["file"]


def test_a_directory_with_too_many_entries_is_refused(root: Path) -> None:
    (root / "dir" / "other").touch()
    with pytest.raises(UnsafeFile, match="more than 1 entries"):
        list_names(root, "dir", limit=1)


@pytest.mark.parametrize("target", ["/etc", "../..", "dir/file"])
def test_what_is_no_directory_inside_is_not_listed(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    with pytest.raises(UnsafeFile):
        list_names(root, "link")
