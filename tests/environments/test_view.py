"""A view is the whole closure and nothing else, as hard links; or it is not there at all."""

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_flox.environments.view import ViewError, lay_out, prepare, remove, unfinished
from nri_flox.flox.store import Store, StorePath


def named(text: str) -> StorePath:
    return StorePath(f"{'0' * 32}-{text}")


TOOL, LIBRARY, ROOT_LINK = named("tool"), named("library"), named("root-link")


class Node:
    """A store and a place for views on one file system."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(str(directory / "store"))
        self.views = directory / "views"
        os.mkdir(self.store.directory)
        prepare(str(self.views))

    def place(self, path: StorePath, relative: str = "") -> Path:
        return Path(self.store.locate(path), relative)

    def write(self, path: StorePath, relative: str, content: str = "content") -> Path:
        file = self.place(path, relative)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def lay_out(self, *closure: StorePath, of: StorePath = TOOL) -> Path:
        return Path(lay_out(str(self.views), self.store, of, closure or (of,)))

    def left(self) -> list[str]:
        return os.listdir(self.views)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_view_holds_exactly_the_closure(node: Node) -> None:
    for path in (TOOL, LIBRARY, named("other")):
        node.write(path, "file")
    view = node.lay_out(TOOL, LIBRARY)
    assert sorted(os.listdir(view)) == sorted([TOOL.name, LIBRARY.name])
    assert view == node.views / TOOL.name


def test_files_are_the_stores_own(node: Node) -> None:
    file = node.write(TOOL, "share/deep/file")
    view = node.lay_out()
    assert os.path.samefile(view / TOOL.name / "share/deep/file", file)


def test_a_store_path_may_be_a_file(node: Node) -> None:
    file = node.write(TOOL, "")
    assert os.path.samefile(node.lay_out() / TOOL.name, file)


@pytest.mark.parametrize("target", ["/", "/etc/passwd", "..", "../../..", "nowhere", ROOT_LINK.name])
def test_a_symlink_stays_the_symlink_that_it_is(node: Node, target: str) -> None:
    node.write(TOOL, "file")
    os.symlink(target, node.place(TOOL, "link"))
    os.symlink(target, node.place(ROOT_LINK))
    view = node.lay_out(TOOL, ROOT_LINK)
    assert os.readlink(view / TOOL.name / "link") == target
    assert os.readlink(view / ROOT_LINK.name) == target
    assert sorted(os.listdir(view)) == sorted([TOOL.name, ROOT_LINK.name])


def test_directories_have_the_modes_and_times_of_the_store(node: Node) -> None:
    node.write(TOOL, "bin/tool")
    for place, mode in ((node.place(TOOL, "bin"), 0o555), (node.place(TOOL), 0o711)):
        os.chmod(place, mode)
        os.utime(place, (1, 1))
    view = node.lay_out()
    for relative, mode in (("bin", 0o555), ("", 0o711)):
        found = os.stat(view / TOOL.name / relative)
        assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (mode, 1)


def test_set_user_id_bits_do_not_come_into_a_view_with_directories(node: Node) -> None:
    node.write(TOOL, "bin/tool")
    os.chmod(node.place(TOOL, "bin"), 0o6755)
    assert stat.S_IMODE(os.stat(node.lay_out() / TOOL.name / "bin").st_mode) == 0o755


def test_nobody_can_write_into_a_view_and_everybody_can_read_it(node: Node) -> None:
    node.write(TOOL, "file")
    assert stat.S_IMODE(os.stat(node.lay_out()).st_mode) == 0o555


def test_others_on_the_node_cannot_list_views(node: Node) -> None:
    assert stat.S_IMODE(os.stat(node.views).st_mode) == 0o711


def test_a_view_that_is_there_is_not_built_again(node: Node) -> None:
    file = node.write(TOOL, "file")
    first = os.stat(node.lay_out())
    file.unlink()
    assert os.stat(node.lay_out()).st_ino == first.st_ino


def test_a_file_with_too_many_links_is_copied(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = node.write(TOOL, "bin/crowded", "#!/bin/sh\n" * 100_000)
    os.chmod(crowded, 0o555)
    os.utime(crowded, (1, 1))
    other = node.write(TOOL, "bin/other")
    os.symlink("other", node.place(TOOL, "bin/link"))
    real = os.link

    def link(source: str, *arguments: Any, **more: Any) -> None:
        if source in ("crowded", "link"):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(source, *arguments, **more)

    monkeypatch.setattr(os, "link", link)
    programs = node.lay_out() / TOOL.name / "bin"
    copy = os.stat(programs / "crowded")
    assert (programs / "crowded").read_text() == crowded.read_text()
    assert (stat.S_IMODE(copy.st_mode), copy.st_mtime, copy.st_nlink) == (0o555, 1, 1)
    assert os.readlink(programs / "link") == "other"
    assert os.path.samefile(programs / "other", other)


def test_a_member_that_is_not_in_the_store_fails_and_leaves_nothing(node: Node) -> None:
    node.write(TOOL, "file")
    with pytest.raises(FileNotFoundError):
        node.lay_out(TOOL, LIBRARY)
    assert node.left() == []


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
@pytest.mark.parametrize("relative", ["", "bin/odd"])
def test_what_no_store_path_may_hold_is_refused_and_nothing_is_left(node: Node, kind: str, relative: str) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("needs root to make a device")
    odd = named("odd")
    place = node.place(odd, relative)
    place.parent.mkdir(parents=True, exist_ok=True)
    device = os.makedev(1, 3) if kind == "device" else 0
    os.mknod(place, {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}[kind] | 0o666, device)
    node.write(TOOL, "file")
    with pytest.raises(ViewError, match=rf"^{odd} (is|holds 'odd', which is) neither file, directory nor symlink"):
        node.lay_out(TOOL, odd)
    assert node.left() == []


def test_a_view_on_another_file_system_says_what_to_set(node: Node, tmp_path: Path) -> None:
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev or not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs /dev/shm on a file system of its own")
    node.write(TOOL, "file")
    elsewhere = Path("/dev/shm") / f"nri-flox-{os.getpid()}"
    elsewhere.mkdir()
    try:
        with pytest.raises(ViewError, match=r"another file system .* set nix\.view_dir"):
            lay_out(str(elsewhere), node.store, TOOL, [TOOL])
        assert os.listdir(elsewhere) == []
    finally:
        elsewhere.rmdir()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Node]:
    """A node whose file system has room for some sixty files."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=64,size=1m", "tmpfs", place], check=True)
    try:
        yield Node(place)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_file_system_leaves_nothing_behind(small: Node) -> None:
    for number in range(20):
        small.write(TOOL, f"{number}/file")
    with pytest.raises(OSError) as raised:
        small.lay_out()
    assert raised.value.errno == errno.ENOSPC
    assert small.left() == []


def test_a_build_that_was_killed_is_not_taken_for_a_view(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.write(TOOL, "file")
    monkeypatch.setattr("nri_flox.environments.view.remove", lambda _path: None)  # as a kill would
    with pytest.raises(FileNotFoundError):
        node.lay_out(TOOL, named("missing"))
    monkeypatch.undo()
    assert len(node.left()) == 1
    for left in unfinished(str(node.views)):
        remove(left)
    assert node.left() == []
    assert (node.lay_out() / TOOL.name / "file").read_text() == "content"


def test_sweeping_keeps_whole_views(node: Node) -> None:
    node.write(TOOL, "file")
    view = node.lay_out()
    for left in unfinished(str(node.views)):
        remove(left)
    assert (view / TOOL.name / "file").exists()


def test_a_view_of_a_path_that_left_the_store_still_has_its_files(node: Node) -> None:
    file = node.write(TOOL, "file")
    view = node.lay_out()
    file.unlink()
    assert (view / TOOL.name / "file").read_text() == "content"


def test_workers_that_build_the_same_view_at_once_end_with_one(node: Node) -> None:
    for number in range(200):
        node.write(TOOL, f"{number % 20}/{number}")
    start = threading.Barrier(4)
    views: list[Path] = []

    def build() -> None:
        start.wait()
        views.append(node.lay_out())

    workers = [threading.Thread(target=build) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert views == [node.views / TOOL.name] * 4
    assert node.left() == [TOOL.name]
    assert sum(len(files) for _, _, files in os.walk(views[0])) == 200


def test_many_files_are_all_there(node: Node) -> None:
    for number in range(5_000):
        node.write(TOOL, f"{number // 100}/{number}", "")
    view = node.lay_out()
    assert sum(len(files) for _, _, files in os.walk(view)) == 5_000


def test_deep_trees_are_laid_out(node: Node) -> None:
    deep = "/".join("d" * 100)
    node.write(TOOL, f"{deep}/file")
    assert (node.lay_out() / TOOL.name / deep / "file").read_text() == "content"


def test_a_tree_too_deep_for_the_descriptors_of_a_service_is_refused(node: Node) -> None:
    node.write(TOOL, "/".join("d" * 600) + "/file")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ViewError, match=rf"^{TOOL} has directories nested deeper"):
        node.lay_out()
    assert node.left() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_are_closed_whether_it_went_well_or_not(node: Node) -> None:
    node.write(TOOL, "a/b/c/file")
    before = len(os.listdir("/proc/self/fd"))
    node.lay_out()
    os.mkfifo(node.place(TOOL, "a/b/fifo"))
    with pytest.raises(ViewError):
        lay_out(str(node.views), node.store, LIBRARY, [TOOL])
    assert len(os.listdir("/proc/self/fd")) == before
