"""What stands for a token is the same after a restart, and says nothing without the key."""

import os
import stat
import uuid
from pathlib import Path

import pytest

from nri_flox.demo import kubelet
from nri_flox.environments.credentials import Credentials
from nri_flox.flox.token import Lent, Unusable

FILE = "floxhub-token"
SECRET = "flox_pat_of-the-tests"
UID = str(uuid.UUID(int=7))


class Node:
    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        self.key = self.state / "credentials.key"
        self.root = directory / "kubelet"

    def secret(self, content: str = SECRET, volume: str = "secret-volume", uid: str = UID, name: str = FILE) -> Path:
        return kubelet.secret_volume(self.root, uid, volume, {name: content})

    def credentials(self) -> Credentials:
        return Credentials(str(self.state), str(self.root), FILE)

    def lent(self, uid: str = UID, volume: str = "secret-volume") -> Lent:
        token = self.credentials().read(uid)[volume]
        assert isinstance(token, Lent)
        return token


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_same_token_has_the_same_credential_in_every_pod_and_after_a_restart(node: Node) -> None:
    other = str(uuid.UUID(int=8))
    node.secret()
    node.secret(SECRET + "\n", uid=other)
    assert node.lent().credential == node.lent(other).credential


def test_another_token_has_another_credential(node: Node) -> None:
    node.secret(SECRET, "one")
    node.secret(SECRET + "x", "two")
    assert node.lent(volume="one").credential != node.lent(volume="two").credential


def test_another_node_has_another_credential_for_the_same_token(node: Node) -> None:
    node.secret()
    before = node.lent().credential
    node.key.unlink()
    assert node.lent().credential != before


def test_a_credential_is_a_safe_name_that_tells_nothing_of_the_token(node: Node) -> None:
    node.secret()
    credential = node.lent().credential
    assert credential.isalnum()
    assert SECRET not in credential


def test_the_key_is_for_the_service_alone(node: Node) -> None:
    node.credentials()
    assert stat.S_IMODE(os.stat(node.key).st_mode) == 0o600
    assert len(node.key.read_bytes()) == 32
    assert os.listdir(node.state) == ["credentials.key"]


@pytest.mark.parametrize("left", [b"", b"short", bytes(33)])
def test_a_key_that_was_cut_short_is_made_anew(node: Node, left: bytes) -> None:
    node.key.write_bytes(left)
    node.credentials()
    made = node.key.read_bytes()
    assert len(made) == 32
    node.credentials()
    assert node.key.read_bytes() == made


def test_what_a_crash_left_of_a_new_key_is_no_hindrance(node: Node) -> None:
    (node.state / "credentials.key.new").write_bytes(b"half")
    node.credentials()
    assert os.listdir(node.state) == ["credentials.key"]


def test_every_volume_is_told_of_and_what_is_in_it(node: Node) -> None:
    node.secret(volume="good")
    node.secret("a\nb", volume="bad")
    node.secret(volume="none", name="other")
    found = node.credentials().read(UID)
    assert isinstance(found["good"], Lent)
    assert found["good"].origin == 'file "floxhub-token" of volume "good"'
    assert found["bad"] == Unusable('file "floxhub-token" of volume "bad"', "it holds control characters")
    assert found["none"] is None


def test_a_pod_without_volumes_lends_nothing(node: Node) -> None:
    assert node.credentials().read(str(uuid.uuid4())) == {}


def test_a_fifo_in_one_volume_does_not_keep_the_others(node: Node) -> None:
    os.mkfifo(node.secret(volume="stuck", name="other") / FILE)
    node.secret(volume="good")
    found = node.credentials().read(UID)
    assert isinstance(found["good"], Lent)
    assert isinstance(found["stuck"], Unusable)
    assert "FIFO" in found["stuck"].reason
