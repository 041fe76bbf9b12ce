"""Tokens on a real node: which pod may have which private environment, and where no token ever shows up."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_flox.demo import cri, kubelet
from nri_flox.demo.cri import Mount
from nri_flox.demo.node import SHELL, Container
from tests.node.floxhub import FILE, MOUNT_PATH, HubNode, hub_node, mount, outcome, printed, refused, tries
from tests.node.sample import decisions
from tests.standins import nixstore

pytestmark = pytest.mark.skipif(not nixstore.available(), reason="needs nix-store (Debian's package nix-bin)")

SECRET = "flox_pat_of-the-tests-0123456789"
ANOTHER = "flox_pat_of-somebody-else-987654321"
POLICIES = ("Always", "IfNotPresent", "Never")


@pytest.fixture(scope="module")
def running(containerd_release: str) -> Iterator[HubNode]:
    with hub_node(containerd_release) as made:
        yield made


@pytest.fixture
def world(running: HubNode) -> Iterator[HubNode]:
    yield running
    running.hub.knob()
    running.node.remove_pods()
    assert running.hub.alarms() == []


@pytest.fixture
def private(world: HubNode) -> str:
    """An environment that SECRET opens."""
    return world.publish(None, SECRET)


def policy(name: str) -> dict[str, str]:
    return {"flox.dev/pull-policy": name}


# ------------------------------------------------------------------------------------------ how a token is lent


@pytest.mark.parametrize("projected", [False, True], ids=["secret", "projected"])
def test_the_volume_that_a_container_mounts(world: HubNode, private: str, projected: bool) -> None:
    pod = world.pod(private, token=SECRET, projected=projected, other=ANOTHER)
    volume = world.volume(pod, "projected" if projected else "secret")
    assert printed(pod, "echo $NUMBER", mounts=mount(volume)).isdecimal()
    tokens = {call.token for call in world.pulls(private)}
    assert world.hub.fingerprint(SECRET) in tokens
    assert world.hub.fingerprint(ANOTHER) not in tokens


def test_the_file_that_a_container_mounts_by_sub_path(world: HubNode, private: str) -> None:
    pod = world.pod(private, token=SECRET, other=ANOTHER)
    # The kubelet binds the file here, and gives this as the mount's source.
    bound = world.node.kubelet_root / f"pods/{pod.uid}/volume-subpaths/secret-volume/main/0"
    bound.parent.mkdir(parents=True)
    shutil.copy(world.volume(pod) / FILE, bound)
    mounts = [Mount(bound, f"{MOUNT_PATH}/{FILE}", read_only=True)]
    assert printed(pod, mounts=mounts).isdecimal()


def test_the_only_one_of_the_pod_though_another_container_mounts_it(world: HubNode, private: str) -> None:
    pod = world.pod(private, token=SECRET)
    pod.container(["true"], "other", image=SHELL, mounts=[])
    assert printed(pod, f"cat {MOUNT_PATH}/{FILE} 2>/dev/null || echo none") == "none"


def test_none_of_several_that_a_container_does_not_mount(world: HubNode, private: str) -> None:
    pod = world.pod(private, token=SECRET, other=SECRET)
    assert "was not found on FloxHub" in refused(pod)
    assert printed(pod, mounts=mount(world.volume(pod))).isdecimal()


def test_the_volume_of_another_pod_lends_nothing(world: HubNode, private: str) -> None:
    neighbour = world.pod(private, token=SECRET)
    pod = world.pod(private)
    assert "was not found on FloxHub" in refused(pod, mounts=mount(world.volume(neighbour)))


def test_a_token_that_was_replaced_is_used_on_the_next_tries(world: HubNode, private: str) -> None:
    pod = world.pod(private, token=ANOTHER)
    refused(pod)
    kubelet.secret_volume(world.node.kubelet_root, pod.uid, "secret-volume", {FILE: SECRET})
    for tried in tries(pod, ["true"]):
        if isinstance(tried, Container):
            break
        assert "FloxHub refused the token" in tried or "is being pulled" in tried


# --------------------------------------------------------------------------------------- who may have which one


def test_without_a_token_a_private_environment_is_not_there(world: HubNode, private: str) -> None:
    text = refused(world.pod(private))
    assert text.startswith(f'flox: environment {private} for container "main" was not found on FloxHub')
    assert f"needs a token, in a secret that the pod mounts at {MOUNT_PATH}" in text


def test_a_token_that_does_not_open_it_is_refused_and_it_is_said_where_it_was_read(
    world: HubNode, private: str
) -> None:
    text = refused(world.pod(private, token=ANOTHER))
    assert f'FloxHub refused the token in file "{FILE}" of volume "secret-volume"' in text
    assert ANOTHER not in text


@pytest.mark.parametrize("pinned", ["", ":1"], ids=["live", "pinned"])
def test_what_a_neighbour_pulled_is_served_to_no_pod_without_its_token(
    world: HubNode, private: str, pinned: str
) -> None:
    reference = private + pinned
    assert printed(world.pod(reference, token=SECRET)).isdecimal()
    for token, name in ((None, "IfNotPresent"), (None, "Never"), (ANOTHER, "IfNotPresent"), (ANOTHER, "Never")):
        assert isinstance(outcome(world.pod(reference, token=token, annotations=policy(name)), ["true"]), str)
    assert printed(world.pod(reference, token=SECRET, annotations=policy("Never"))).isdecimal()


def test_nor_is_it_while_floxhub_is_down_nor_after_a_restart(world: HubNode, private: str) -> None:
    printed(world.pod(private, token=SECRET))
    world.hub.knob(fail="network")
    time.sleep(0.31)
    for _ in ("before", "after"):
        assert printed(world.pod(private, token=SECRET)).isdecimal()
        assert "FloxHub could not be reached" in refused(world.pod(private))
        assert "FloxHub could not be reached" in refused(world.pod(private, token=ANOTHER))
        world.node.plugin.stop()
        world.node.start_plugin()


def test_after_a_definite_refusal_it_is_gone_for_new_pods_and_stays_for_those_that_have_it(
    world: HubNode, private: str
) -> None:
    old = world.pod(private, token=SECRET)
    before = printed(old)
    world.hub.permit(private, [ANOTHER])
    time.sleep(0.31)
    assert "FloxHub refused the token" in refused(world.pod(private, token=SECRET))
    world.hub.knob(fail="network")
    for name in POLICIES:
        assert isinstance(outcome(world.pod(private, token=SECRET, annotations=policy(name)), ["true"]), str)
    assert printed(old, attempt=1) == before


def test_an_environment_that_became_private_is_gone_for_new_pods_without_a_token(world: HubNode) -> None:
    reference = world.publish()
    printed(world.pod(reference))
    world.hub.permit(reference, [SECRET])
    time.sleep(0.31)
    refused(world.pod(reference))
    for name in POLICIES:
        assert isinstance(outcome(world.pod(reference, annotations=policy(name)), ["true"]), str)
    assert printed(world.pod(reference, token=SECRET)).isdecimal()


# ------------------------------------------------------------------------------------------- tokens that are none


def test_a_fifo_in_place_of_a_token_is_refused_and_holds_nobody_up(world: HubNode, private: str) -> None:
    uid = str(uuid.uuid4())
    os.mkfifo(world.node.secret(uid, {}) / FILE)
    stuck = world.pod(private, uid=uid)
    bystander = world.pod(world.publish(), token=SECRET)
    assert f'can\'t be had with the token in file "{FILE}" of volume "secret-volume": it is a FIFO' in refused(stuck)
    assert printed(bystander).isdecimal()
    assert max(entry["ms"] for entry in decisions(world.node, stuck)) < 1900


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a\nb", "control characters"),
        ("x" * (64 * 1024 + 1), "larger than 65536 bytes"),
        ("", "empty"),
        (b"\xff", "not text"),
    ],
    ids=["control characters", "large", "empty", "no text"],
)
def test_what_is_no_token_is_refused(world: HubNode, private: str, content: str | bytes, why: str) -> None:
    text = refused(world.pod(private, token=content))
    assert f'can\'t be had with the token in file "{FILE}" of volume "secret-volume": it ' in text
    assert why in text
    assert world.pulls(private) == []


def test_a_link_out_of_the_volume_is_refused(world: HubNode, private: str) -> None:
    elsewhere = world.node.directory / "a-token-of-the-nodes"
    elsewhere.write_text(SECRET)
    uid = str(uuid.uuid4())
    (world.node.secret(uid, {}) / FILE).symlink_to(elsewhere)
    assert "out of its directory" in refused(world.pod(private, uid=uid))
    elsewhere.unlink()


# ------------------------------------------------------------------------------------------- where no token shows


def test_the_token_is_nowhere_but_in_its_volume(world: HubNode, private: str) -> None:
    node = world.node
    world.hub.knob(private, delay=0.3, noise=f"debug: the token is {SECRET}\n")
    pod = world.pod(private, token=SECRET)
    volume = world.volume(pod)
    told = []
    for tried in tries(pod, ["sleep", "100"], mounts=mount(volume)):
        if isinstance(tried, Container):
            container = tried.start()
            break
        told.append(tried)
        told.append(command_lines(node.plugin.pid))
    # The texts of failures, over what the CLI said.
    world.publish(private)
    time.sleep(0.31)
    world.hub.knob(private, fail="garbage", noise=f"✘ ERROR: bad token {SECRET}\n")
    told.append(refused(world.pod(private, token=SECRET)))
    told.append(json.dumps(node.cri.info(container.id)))
    told += [str(status) for status in (node.cri.status(container.id), *node.cri.containers(), *node.cri.pods())]
    told.append(container.exec(["env"]).stdout)
    told.append(Path(f"/proc/{container.pid}/environ").read_text())
    told.append(command_lines(node.plugin.pid) + Path(f"/proc/{node.plugin.pid}/environ").read_text())
    assert [text for text in told if SECRET in text] == []
    assert container.exec(["cat", f"{MOUNT_PATH}/{FILE}"]).stdout == SECRET, "the pod sees its own secret"
    assert files_with(node.directory, SECRET) == {
        str(path) for path in node.kubelet_root.rglob(FILE) if not path.is_symlink()
    }


def command_lines(plugin: int) -> str:
    """Of the plugin and of all that it has started."""
    lines = ""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if plugin in (parent, int(process.name)):
                    lines += (process / "cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return lines


def files_with(directory: Path, text: str) -> set[str]:
    """Files below `directory` (logs, states, specs, the store) with `text` in them or in their names."""
    found = set()
    for place, directories, files in os.walk(directory):
        found |= {os.path.join(place, name) for name in (*directories, *files) if text in name}
        for name in files:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes():
                found.add(str(path))
    return found


def test_another_container_of_the_pod_does_not_see_the_secret(world: HubNode, private: str) -> None:
    pod = world.pod(private, token=SECRET)
    printed(pod, mounts=mount(world.volume(pod)))
    said = printed(pod, "env; cat /proc/self/mountinfo", "other")
    assert SECRET not in said
    assert "secret" not in said


def test_the_token_file_may_have_another_name_and_place(world: HubNode, private: str) -> None:
    uid = str(uuid.uuid4())
    volume = world.node.secret(uid, {"key": SECRET, FILE: ANOTHER})
    world.node.secret(uid, {"key": ANOTHER}, volume="other-volume")
    with world.node.reconfigured(
        {"token": {"kubelet_root": world.node.kubelet_root, "file": "key", "mount_path": "/t"}}
    ):
        assert printed(world.pod(private, uid=uid), mounts=[Mount(volume, "/t", read_only=True)]).isdecimal()


def test_a_pod_without_a_uid_of_its_own_reads_no_volume(world: HubNode, private: str) -> None:
    world.pod(private, token=SECRET)
    try:
        pod = world.pod(private, uid="..")
    except cri.CriError:
        return  # the runtime itself refuses
    assert "was not found on FloxHub" in refused(pod)
