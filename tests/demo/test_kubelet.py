"""Secret volumes as a kubelet lays them out."""

from __future__ import annotations

from pathlib import Path

from nri_flox.demo import kubelet


def test_a_key_is_a_link_through_the_current_data(tmp_path: Path) -> None:
    volume = kubelet.secret_volume(tmp_path, "uid", "token", {"floxhub-token": "s3cret"})
    assert volume == tmp_path / "pods/uid/volumes/kubernetes.io~secret/token"
    assert (volume / "floxhub-token").readlink() == Path("..data/floxhub-token")
    assert (volume / "..data").readlink().name.startswith("..")
    assert (volume / "floxhub-token").read_text() == "s3cret"


def test_projected_volumes_have_a_place_of_their_own(tmp_path: Path) -> None:
    volume = kubelet.secret_volume(tmp_path, "uid", "token", {"floxhub-token": b"s3cret"}, projected=True)
    assert volume.parent.name == "kubernetes.io~projected"


def test_a_changed_secret_replaces_the_old_one(tmp_path: Path) -> None:
    kubelet.secret_volume(tmp_path, "uid", "token", {"floxhub-token": "old"})
    volume = kubelet.secret_volume(tmp_path, "uid", "token", {"floxhub-token": "new"})
    assert (volume / "floxhub-token").read_text() == "new"
    assert [entry.name for entry in volume.iterdir() if not entry.is_symlink()] == [(volume / "..data").readlink().name]


def test_a_pod_that_is_gone_leaves_no_volume(tmp_path: Path) -> None:
    kubelet.secret_volume(tmp_path, "uid", "token", {"floxhub-token": "s3cret"})
    kubelet.forget(tmp_path, "uid")
    assert list((tmp_path / "pods").iterdir()) == []
