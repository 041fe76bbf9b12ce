"""Layers on disk: made, taken, removed; real file systems, so this needs root."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nri_flox.environments.catalogue import Catalogue
from nri_flox.environments.layers import Layers
from nri_flox.environments.realiser import Layout
from nri_flox.flox.environment import Environment, Failure, Fault, Layer
from nri_flox.flox.store import Store, StorePath
from tests.adjust.test_decide import environment
from tests.standins import nixstore
from tests.standins.nixstore import NixStore

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems"),
    pytest.mark.skipif(not nixstore.available(), reason="no Nix on this machine"),
]

SIZE = 32 << 20


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = NixStore(directory / "node")
        self.catalogue = Catalogue()
        self.errors: list[Exception] = []
        self.layers = self.made()

    def made(self, min_free: float = 0.0, flox: str = "no-flox") -> Layers:
        def failed(_where: str, error: Exception) -> None:
            self.errors.append(error)

        views = self.directory / "views"
        views.mkdir(exist_ok=True)
        layout = Layout(Store(str(self.store.store_dir)), str(self.store.state_dir), str(views))
        return Layers(str(self.directory / "mutable"), layout, flox, SIZE, min_free, self.catalogue, failed)

    def environment(self, name: str = "tools") -> Environment:
        path = StorePath.parse(self.store.add_closure(name, 3))
        return replace(environment(), store_path=path)

    def asked(self, environment: Environment) -> Layer | Failure:
        self.layers.ask(environment)
        until(lambda: self.catalogue.layer(environment.store_path) is not None)
        outcome = self.catalogue.layer(environment.store_path)
        assert outcome is not None
        return outcome

    def on_disk(self) -> set[str]:
        directory = self.directory / "mutable/layers"
        return {str(entry) for entry in directory.iterdir()} if directory.exists() else set()

    def mounted(self) -> int:
        return Path("/proc/self/mounts").read_text().count(f"{self.directory}/mutable/")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.layers.close(10)
    place.catalogue.leave_layers(lambda _container, _sandbox: True)
    place.catalogue = Catalogue()
    last = place.made()
    last.sweep()
    last.close(10)
    assert not place.on_disk()
    assert not place.mounted()
    assert not place.errors


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_layer_is_a_file_system_of_the_wanted_size(place: Place) -> None:
    layer = place.asked(place.environment())
    assert isinstance(layer, Layer)
    room = os.statvfs(layer.upper)
    assert SIZE * 0.8 < room.f_blocks * room.f_frsize <= SIZE
    image = os.stat(f"{layer.directory}/image")
    assert image.st_blocks * 512 < SIZE / 4, "what isn't written takes no room"
    assert stat_of(layer.nix) == stat_of(layer.upper) == 0o1777
    assert os.listdir(layer.upper) == os.listdir(f"{layer.nix}/store") == []


def stat_of(path: str) -> int:
    return os.stat(path).st_mode & 0o7777


def test_layer_is_for_one_container(place: Place) -> None:
    wanted = place.environment()
    layer = place.asked(wanted)
    assert isinstance(layer, Layer)
    place.catalogue.use_layer(layer, "container", "sandbox")
    assert place.catalogue.layer(wanted.store_path) is None
    other = place.asked(wanted)
    assert isinstance(other, Layer)
    assert other != layer


def test_asking_often_makes_no_more(place: Place) -> None:
    wanted = place.environment()
    for _ in range(5):
        place.layers.ask(wanted)
    place.asked(wanted)
    for _ in range(5):
        place.layers.ask(wanted)
    until(lambda: place.mounted() == 2)  # the second is in stock
    place.layers.close(10)
    assert len(place.on_disk()) == 1


def test_layer_that_is_removed_leaves_no_mount(place: Place) -> None:
    wanted = place.environment()
    layer = place.asked(wanted)
    assert isinstance(layer, Layer)
    place.catalogue.use_layer(layer, "container", "sandbox")
    until(lambda: place.mounted() == 2)
    assert place.catalogue.leave_layers(lambda container, _sandbox: container == "container") == [layer]
    place.layers.remove(layer)
    until(lambda: not os.path.exists(layer.directory))
    assert place.mounted() == 1


def test_sweep_takes_what_no_container_has(place: Place) -> None:
    one, two = place.environment("one"), place.environment("two")
    kept, ready = place.asked(one), place.asked(two)
    assert isinstance(kept, Layer)
    assert isinstance(ready, Layer)
    place.catalogue.use_layer(kept, "container", "sandbox")
    place.layers.close(10)  # and comes back, as after a kill
    (place.directory / "mutable/layers/left-by-a-kill/mounted").mkdir(parents=True)
    place.catalogue = Catalogue()
    place.catalogue.use_layer(kept, "container", "sandbox")
    place.layers = place.made()
    place.layers.sweep()
    until(lambda: place.on_disk() == {kept.directory})


def test_flox_of_the_node_comes_with_its_closure_where_it_lies_in_the_store(place: Place, tmp_path: Path) -> None:
    flox = place.store.add("flox", {"bin/flox": "#!/bin/sh\n"})
    profile = tmp_path / "flox"
    profile.symlink_to(f"{place.store.locate(flox)}/bin/flox")
    place.layers.close(10)
    place.layers = place.made(flox=str(profile))
    wanted = place.environment()
    layer = place.asked(wanted)
    assert isinstance(layer, Layer)
    assert layer.flox is not None
    assert layer.flox.bin == f"{flox}/bin"
    assert os.listdir(layer.flox.view) == [Path(flox).name]
    roots = {os.readlink(entry.path) for entry in os.scandir(f"{layer.nix}/var/nix/gcroots")}
    assert roots == {flox, str(wanted.store_path)}


def test_flox_that_was_not_installed_by_nix_is_left_out(place: Place, tmp_path: Path) -> None:
    (tmp_path / "flox").write_text("#!/bin/sh\n")
    (tmp_path / "flox").chmod(0o755)
    place.layers.close(10)
    place.layers = place.made(flox=str(tmp_path / "flox"))
    layer = place.asked(place.environment())
    assert isinstance(layer, Layer)
    assert layer.flox is None


def test_environment_that_nix_does_not_know_has_none(place: Place) -> None:
    unknown = StorePath.parse(f"/nix/store/{'0' * 32}-unknown")
    failure = place.asked(replace(environment(), store_path=unknown))
    assert isinstance(failure, Failure)
    assert (failure.fault, "in no Nix database" in failure.detail) == (Fault.BROKEN, True)


def test_full_node_is_said_so(place: Place) -> None:
    place.layers.close(10)
    place.layers = place.made(min_free=1.0)
    failure = place.asked(place.environment())
    assert isinstance(failure, Failure)
    assert failure.fault is Fault.NO_SPACE


def test_tool_that_is_missing_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = place.environment()
    monkeypatch.setenv("PATH", "/nonexistent")
    failure = place.asked(wanted)
    monkeypatch.undo()
    assert isinstance(failure, Failure)
    assert failure.detail == "mkfs.ext4 is not installed on this node"
    assert not place.on_disk()
