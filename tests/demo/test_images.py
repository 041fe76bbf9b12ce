"""Images made by hand, read back as a registry's client would."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from nri_flox.demo import images


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    program = tmp_path / "busybox"
    program.write_text("#!/bin/sh\nprintf 'busybox\\nls\\nsh\\n'\n")
    program.chmod(0o755)
    return program


def _read(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def _blob(layout: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    content = layout[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert descriptor["size"] == len(content)
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content


def test_every_blob_is_there_under_its_digest(tmp_path: Path, busybox: Path) -> None:
    images.write(tmp_path / "images.tar", [images.pause(busybox), images.shell(busybox), images.empty()])
    layout = _read(tmp_path / "images.tar")
    for described in json.loads(layout["index.json"])["manifests"]:
        manifest = json.loads(_blob(layout, described))
        config = json.loads(_blob(layout, manifest["config"]))
        layers = [_blob(layout, layer) for layer in manifest["layers"]]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]


def test_images_are_named_by_tag_and_by_digest(tmp_path: Path) -> None:
    images.write(tmp_path / "images.tar", [images.empty()])
    manifests = json.loads(_read(tmp_path / "images.tar")["index.json"])["manifests"]
    names = [manifest["annotations"]["io.containerd.image.name"] for manifest in manifests]
    assert names == ["docker.io/flox/empty:1.0.0", f"docker.io/flox/empty@{manifests[0]['digest']}"]


def test_the_empty_image_holds_nothing() -> None:
    config = json.loads(images.empty().config())
    assert json.loads(images.empty().manifest())["layers"] == []
    assert config["config"] == {"Env": []}


def test_the_shell_image_has_busybox_under_all_its_names(busybox: Path) -> None:
    image = images.shell(busybox)
    assert image.layer is not None
    with tarfile.open(fileobj=io.BytesIO(image.layer)) as layer:
        links = {member.name: member.linkname for member in layer if member.issym()}
        assert links == {"bin/ls": "busybox", "bin/sh": "busybox"}
        assert layer.getmember("tmp").mode == 0o1777
        assert layer.getmember("bin/busybox").mode == 0o755


def test_the_same_image_has_the_same_digest_every_time(busybox: Path) -> None:
    assert images.shell(busybox).pinned == images.shell(busybox).pinned
