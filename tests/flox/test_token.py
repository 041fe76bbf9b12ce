"""A token is read from the pod's own volumes only, never blocks, and has no way into any text."""

import os
import socket
import time
import uuid
from pathlib import Path

import pytest

from nri_flox.demo import kubelet
from nri_flox.flox.token import (
    MAX_TOKEN,
    Lent,
    NoToken,
    Token,
    TokenMount,
    Unusable,
    choose,
    origin,
    read_token,
    volumes,
)

FILE = "floxhub-token"
SECRET = "flox_pat_of-the-tests"
UID = str(uuid.UUID(int=7))


# ------------------------------------------------------------------------------------------- reading one volume


def secret(root: Path, content: str | bytes = SECRET, name: str = FILE) -> str:
    return str(kubelet.secret_volume(root, UID, "secret-volume", {name: content}))


def read(volume: str) -> str:
    return read_token(volume, FILE).reveal()


def test_the_token_is_read_through_the_kubelets_links(tmp_path: Path) -> None:
    assert read(secret(tmp_path)) == SECRET


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_trailing_newline_is_dropped(tmp_path: Path, end: str) -> None:
    assert read(secret(tmp_path, SECRET + end)) == SECRET


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\0", "\t", "\x1b", "\x7f", "\x85", "\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}"]
)
@pytest.mark.parametrize("form", ["{}" + SECRET, SECRET + "{}x", SECRET + "{}x\n"])
def test_control_characters_are_refused(tmp_path: Path, form: str, character: str) -> None:
    with pytest.raises(NoToken, match="control characters") as raised:
        read(secret(tmp_path, form.format(character)))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(NoToken, match="empty"):
        read(secret(tmp_path, content))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoToken, match="not text"):
        read(secret(tmp_path, b"\xff\xfe"))


def test_64_kib_are_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    assert read(secret(tmp_path, "x" * MAX_TOKEN)) == "x" * MAX_TOKEN
    with pytest.raises(NoToken, match="larger than 65536 bytes"):
        read(secret(tmp_path, "x" * (MAX_TOKEN + 1)))


def test_no_file_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(secret(tmp_path, name="other"))


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../../outside", "..data/../../outside"])
def test_a_link_out_of_the_volume_is_refused(tmp_path: Path, target: str) -> None:
    volume = Path(secret(tmp_path, name="other"))
    (volume.parent / "outside").write_text(SECRET)
    (volume / FILE).symlink_to(target)
    with pytest.raises(NoToken, match="out of its directory"):
        read(str(volume))


def test_the_volume_of_a_neighbour_cannot_be_linked_to(tmp_path: Path) -> None:
    neighbour = kubelet.secret_volume(tmp_path, str(uuid.UUID(int=8)), "secret-volume", {FILE: SECRET})
    volume = Path(secret(tmp_path, name="other"))
    for target in (str(neighbour / FILE), os.path.relpath(neighbour / FILE, volume)):
        (volume / FILE).symlink_to(target)
        with pytest.raises(NoToken):
            read(str(volume))
        (volume / FILE).unlink()


@pytest.mark.parametrize("where", ["file", "data"])
def test_links_in_a_circle_are_refused(tmp_path: Path, where: str) -> None:
    volume = Path(secret(tmp_path))
    place = volume / (FILE if where == "file" else "..data")
    place.unlink()
    place.symlink_to(place.name)
    with pytest.raises(NoToken, match="too many symlinks"):
        read(str(volume))


@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "directory"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Path(secret(tmp_path, name="other"))
    place = volume / FILE
    monkeypatch.chdir(volume)  # a socket's path must be short
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("needs root to make a device")
        os.mknod(place, 0o20666, os.makedev(5, 0))
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(FILE)
    else:
        place.mkdir()
    began = time.monotonic()
    with pytest.raises(NoToken, match="not a regular file"):
        read(str(volume))
    assert time.monotonic() - began < 2


def test_a_token_has_no_text_form() -> None:
    token = Token(SECRET)
    lent = Lent("0" * 40, token, origin("volume", FILE))
    for text in (str(token), repr(token), f"{token}", f"{token!r}", "%s" % token, repr(lent), str([lent])):  # noqa: UP031
        assert SECRET not in text
    assert not hasattr(token, "__dict__")


def test_a_token_is_not_equal_by_its_value() -> None:
    assert Token(SECRET) != Token(SECRET), "nothing may find out a token by comparing"


def test_a_tokens_volume_and_file_are_quoted_harmlessly() -> None:
    said = origin("volume\n\x1b[31m" + "x" * 500, FILE)
    assert said.isprintable()
    assert len(said) < 200


# ------------------------------------------------------------------------------------------ the volumes of a pod


def test_secret_and_projected_volumes_are_found(tmp_path: Path) -> None:
    one = kubelet.secret_volume(tmp_path, UID, "one", {})
    two = kubelet.secret_volume(tmp_path, UID, "two", {}, projected=True)
    assert volumes(str(tmp_path), UID) == {"one": str(one), "two": str(two)}


@pytest.mark.parametrize("kind", ["kubernetes.io~configmap", "kubernetes.io~empty-dir", "kubernetes.io~csi", "other"])
def test_other_kinds_of_volume_are_ignored(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "pods" / UID / "volumes" / kind / "volume"
    place.mkdir(parents=True)
    (place / FILE).write_text(SECRET)
    assert volumes(str(tmp_path), UID) == {}


def test_only_directories_are_volumes(tmp_path: Path) -> None:
    place = tmp_path / "pods" / UID / "volumes/kubernetes.io~secret"
    place.mkdir(parents=True)
    (place / "link").symlink_to(secret(tmp_path / "elsewhere"))
    (place / "file").write_text("")
    os.mkfifo(place / "fifo")
    assert volumes(str(tmp_path), UID) == {}


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "../pods", f"../pods/{UID}", f"{UID}/", "a/b", "a\0b", str(uuid.uuid4())]
)
def test_a_uid_that_is_no_directory_of_the_kubelet_has_no_volumes(tmp_path: Path, uid: str) -> None:
    secret(tmp_path)
    assert volumes(str(tmp_path), uid) == {}


# ------------------------------------------------------------------------------------ which one a container uses

ROOT = "/var/lib/kubelet"
POD = f"{ROOT}/pods/{UID}"
MOUNT = TokenMount("/var/run/secrets/flox.dev", FILE, ROOT)
WHOLE = "/var/run/secrets/flox.dev"


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        (WHOLE, f"{POD}/volumes/kubernetes.io~secret/mine"),
        (WHOLE + "/", f"{POD}/volumes/kubernetes.io~secret/mine/"),
        (WHOLE, f"{POD}/volumes/kubernetes.io~projected/mine"),
        (f"{WHOLE}/{FILE}", f"{POD}/volume-subpaths/mine/main/0"),
        (f"{WHOLE}/{FILE}", f"{POD}/volumes/kubernetes.io~secret/mine"),
    ],
    ids=["whole", "with slashes", "projected", "by subPath", "a file's place"],
)
def test_the_volume_that_a_container_mounts_is_known_by_its_source(destination: str, source: str) -> None:
    others = [("/etc/hosts", f"{POD}/etc-hosts"), ("/data", f"{POD}/volumes/kubernetes.io~secret/other")]
    assert MOUNT.volume(UID, [*others, (destination, source)]) == "mine"


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        ("/var/run/secrets", f"{POD}/volumes/kubernetes.io~secret/mine"),
        (f"{WHOLE}/other", f"{POD}/volume-subpaths/mine/main/0"),
        (WHOLE, f"{POD}/volumes/kubernetes.io~empty-dir/mine"),
        (WHOLE, f"{POD}/volumes/kubernetes.io~secret/mine/below"),
        (WHOLE, f"{POD}/volumes/kubernetes.io~secret"),
        (WHOLE, f"{POD}/volumes/kubernetes.io~secret/mine/../../../../../{uuid.uuid4()}/volumes/x/y"),
        (WHOLE, f"{ROOT}/pods/{uuid.uuid4()}/volumes/kubernetes.io~secret/mine"),
        (WHOLE, f"{ROOT}/pods/{UID}-other/volumes/kubernetes.io~secret/mine"),
        (WHOLE, f"/elsewhere/pods/{UID}/volumes/kubernetes.io~secret/mine"),
        (WHOLE, "/home/me/secrets"),
    ],
)
def test_any_other_mount_is_no_token_mount(destination: str, source: str) -> None:
    assert MOUNT.volume(UID, [(destination, source)]) is None


@pytest.mark.parametrize("uid", ["", ".", ".."])
def test_a_pod_without_a_proper_uid_has_no_token_mount(uid: str) -> None:
    assert MOUNT.volume(uid, [(WHOLE, f"{ROOT}/pods/{uid}/volumes/kubernetes.io~secret/mine")]) is None


ONE, TWO = (Lent(credential, Token(SECRET), "") for credential in "12")
BAD = Unusable("", "")


@pytest.mark.parametrize(
    ("tokens", "volume", "chosen"),
    [
        ({}, None, None),
        ({"a": ONE}, "a", ONE),
        ({"a": ONE, "b": TWO}, "b", TWO),
        ({"a": ONE}, None, ONE),
        ({"a": ONE, "b": None, "c": None}, None, ONE),
        ({"a": ONE, "b": TWO}, None, None),
        ({"a": BAD}, None, BAD),
        ({"a": BAD, "b": ONE}, None, None),
        ({"a": ONE, "b": None}, "b", None),
        ({"a": ONE}, "of another kind", ONE),
    ],
    ids=[
        "no secret",
        "the one that it mounts",
        "the one that it mounts, of several",
        "the only one of its pod",
        "the only one among secrets without a token",
        "none of several that it does not mount",
        "the only one, though it can't be used",
        "none of several, though one can't be used",
        "none, for what it mounts has no token",
        "the only one, when what it mounts is no secret",
    ],
)
def test_the_token_that_a_container_uses(
    tokens: dict[str, Lent | Unusable | None], volume: str | None, chosen: Lent | Unusable | None
) -> None:
    assert choose(tokens, volume) is chosen
