"""Containers that may write to their /nix: what they can do there, and what nobody else ever sees of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nri_flox.demo.cri import Mount
from nri_flox.demo.node import Container, Node, Pod
from tests.node.conftest import MakeNode
from tests.node.sample import Published, events, host_mounts, publish, refusal, until
from tests.standins import nixstore

pytestmark = pytest.mark.skipif(not nixstore.available(), reason="no Nix on this machine")

MUTABLE = {"flox.dev/nix-mutable": "true"}


def registered(node: Node, **rendering: Any) -> Published:
    """An environment that the node's own Nix database knows."""
    environment = publish(node, **rendering)
    nixstore.NixStore(node.directory).add_environment(str(environment.path))
    return environment


def mutable_pod(node: Node, environment: Published) -> Pod:
    return node.pod(environment=environment.reference, annotations=MUTABLE)


def nix(container: Container, *arguments: str) -> str:
    """What Nix says inside: the machine's `nix-store` with its libraries, which `with_nix` has brought along."""
    home = next(Path("/usr/lib").glob("*-linux-gnu"))
    loader = next(home.glob("ld-linux-*.so.*")).relative_to("/usr")
    libraries = f"/machine/lib/{home.name}:/machine/lib/nix"
    command = [f"/machine/{loader}", "--library-path", libraries, "/machine/bin/nix-store", *arguments]
    said = container.exec(command)
    assert said.exit_code == 0, said
    return said.stdout


def with_nix(pod: Pod, user: int = 0) -> Container:
    """A running container in which `nix` works."""
    mounts = [Mount(Path("/usr"), "/machine", read_only=True)]
    env = {"HOME": "/tmp", "NIX_CONFIG": nixstore.NIX_CONFIG}
    return pod.container(["sleep", "1000"], run_as_user=user, mounts=mounts, env=env).start()


def layers(node: Node) -> set[Path]:
    return set((node.state_dir / "mutable/layers").glob("*"))


@pytest.mark.parametrize("user", [0, 1000])
def test_a_container_writes_to_its_own_store(node: Node, user: int) -> None:
    environment = registered(node, vars={"GREETING": "hello"})
    script = "echo new > /nix/store/new; mkdir /nix/own /nix/var/own; cat /nix/store/new; echo $GREETING; ls /nix"
    said = mutable_pod(node, environment).run(["sh", "-c", script], run_as_user=user, read_only_root=True)
    assert said.stdout == "new\nhello\nnri-flox\nown\nstore\nvar\n", said.stderr
    assert not (node.store_dir / "new").exists()


def test_root_may_change_what_is_in_the_store_and_only_it_sees_that(node: Node) -> None:
    environment = registered(node)
    pod = mutable_pod(node, environment)
    one, two = (pod.container(["sleep", "1000"], name).start() for name in ("one", "two"))
    bystander = node.pod(environment=environment.reference).container(["sleep", "1000"]).start()
    manifest = f"{environment.path}/manifest.lock"
    before = two.exec(["cat", manifest]).stdout
    assert one.exec(["sh", "-c", f"echo changed > {manifest}; rm {environment.path}/activate"]).exit_code == 0
    assert one.exec(["cat", manifest]).stdout == "changed\n"
    assert two.exec(["cat", manifest]).stdout == bystander.exec(["cat", manifest]).stdout == before
    assert nixstore.NixStore(node.directory).verify() == []


def test_the_store_below_is_the_environments_own_closure(node: Node) -> None:
    neighbour, environment = registered(node, vars={"WHO": "neighbour"}), registered(node)
    said = mutable_pod(node, environment).run(["ls", "/nix/store"])
    closure = (environment.directory / "requisites.txt").read_text().split()
    assert sorted(said.stdout.split()) == sorted(path.removeprefix("/nix/store/") for path in closure)
    assert neighbour.path.name not in said.stdout


@pytest.mark.parametrize("user", [0, 1000])
def test_nix_knows_exactly_the_closure(node: Node, user: int) -> None:
    registered(node, vars={"WHO": "neighbour"})
    environment = registered(node)
    container = with_nix(mutable_pod(node, environment), user)
    store = nixstore.NixStore(node.directory)
    closure = set(store.query_requisites(str(environment.path)))
    assert set(nix(container, "--query", "--requisites", str(environment.path)).split()) == closure
    assert set(nix(container, "--dump-db").split()) & set(store.rows(closure)) == closure
    assert set(nix(container, "--query", "--references", str(environment.path)).split()) == closure
    nix(container, "--verify", "--check-contents")
    assert f"/nix/var/nix/gcroots/nri-flox-0 -> {environment.path}" in nix(container, "--gc", "--print-roots")


@pytest.mark.parametrize("user", [0, 1000])
def test_nix_adds_paths_and_collects_them_again(node: Node, user: int) -> None:
    environment = registered(node)
    container = with_nix(mutable_pod(node, environment), user)
    container.exec(["sh", "-c", "echo content > /tmp/mine"])
    added = nix(container, "--add", "/tmp/mine").strip()
    assert container.exec(["cat", added]).stdout == "content\n"
    nix(container, "--gc")
    assert container.exec(["test", "-e", added]).exit_code == 1
    assert container.exec(["cat", "/nix/store/" + environment.path.name + "/manifest.lock"]).exit_code == 0
    assert nixstore.NixStore(node.directory).is_valid(str(environment.path))
    assert not nixstore.NixStore(node.directory).is_valid(added)


def test_a_container_that_writes_too_much_has_a_full_disk(make_node: MakeNode) -> None:
    node = make_node(settings={"activation": {"mutable_max_size": "16MiB"}})
    pod = mutable_pod(node, registered(node))
    script = "i=0; while cat /nix/store/*/bin/busybox > /nix/store/$i; do i=$((i+1)); done; echo over"
    full = pod.run(["sh", "-c", script], "full")
    assert "No space left on device" in full.stderr
    assert full.stdout == "over\n"
    assert pod.run(["sh", "-c", "echo new > /nix/store/new && echo done"], "other").stdout == "done\n"


def test_a_layer_goes_with_its_container(make_node: MakeNode) -> None:
    node = make_node()
    environment = registered(node)
    pod = mutable_pod(node, environment)
    mounts = host_mounts(node)
    pod.container(["true"], "first")
    until(lambda: host_mounts(node) == mounts + 2)  # one that is used, and one in stock
    for attempt in range(3):
        container = pod.container(["sleep", "1000"], attempt=attempt).start()
        container.stop(0)
        container.remove()
    until(lambda: len(layers(node)) == 2 and host_mounts(node) == mounts + 2)
    pod.remove()
    until(lambda: len(layers(node)) == 1)


def test_a_restarted_service_leaves_running_containers_alone_and_sweeps_the_rest(make_node: MakeNode) -> None:
    node = make_node()
    environment = registered(node)
    pod = mutable_pod(node, environment)
    kept = pod.container(["sleep", "1000"], "kept").start()
    assert kept.exec(["sh", "-c", "echo mine > /nix/store/mine"]).exit_code == 0
    gone = pod.container(["sleep", "1000"], "gone").start()
    until(lambda: len(layers(node)) == 3)
    node.plugin.kill()
    gone.stop(0)
    gone.remove()
    node.start_plugin()
    until(lambda: len(layers(node)) == 1)
    assert kept.exec(["cat", "/nix/store/mine"]).stdout == "mine\n"
    kept.stop(0)
    kept.remove()
    until(lambda: not layers(node))


def test_another_size_is_for_layers_that_are_made_from_then_on(make_node: MakeNode) -> None:
    node = make_node()
    pod = mutable_pod(node, registered(node))
    old = pod.container(["sleep", "1000"], "old").start()
    until(lambda: len(layers(node)) == 2)
    (used,) = (layer for layer in layers(node) if (layer / "mounted/upper").exists())
    smaller = node.plugin.config_file.read_text() + '[activation]\nmutable_max_size = "64MiB"\n'
    node.plugin.config_file.write_text(smaller)
    node.plugin.send(signal.SIGHUP)
    until(lambda: layers(node) == {used})
    new = pod.container(["true"], "new")
    room = next(mount for mount in new.spec["mounts"] if mount["destination"] == "/nix")["source"]
    assert os.statvfs(room).f_blocks * os.statvfs(room).f_frsize < 64 << 20
    old.stop(0)
    old.remove()
    until(lambda: used not in layers(node))


def test_an_environment_that_nix_does_not_know_is_refused(node: Node) -> None:
    environment = publish(node)
    assert "in no Nix database" in refusal(mutable_pod(node, environment))


# Older ones have no sandbox with a user namespace in the host's network.
@pytest.mark.parametrize("containerd_release", ["2.3"], indirect=True, scope="session")
def test_a_pod_with_users_of_its_own_is_refused(node: Node) -> None:
    node.directory.chmod(0o711)  # for the pod's root to reach its files
    environment = registered(node)
    pod = node.pod(environment=environment.reference, annotations=MUTABLE, host_users=False)
    assert "hostUsers: false" in refusal(pod)


def test_flox_of_the_node_is_there_after_the_environments_own(make_node: MakeNode) -> None:
    node = make_node(plugin=False)
    store = nixstore.NixStore(node.directory)
    path = store.add(
        "flox", {"bin/flox": "#!/bin/sh\necho the flox of the node\n", "bin/sh": "#!/bin/sh\necho wrong\n"}
    )
    with node.reconfigured({"flox": {"executable": str(store.locate(path) / "bin/flox")}}):
        environment = registered(node)
        container = with_nix(mutable_pod(node, environment))
        assert container.exec(["flox"]).stdout == "the flox of the node\n"
        assert container.exec(["sh", "-c", "echo right"]).stdout == "right\n"
        closures = {*store.query_requisites(str(environment.path)), path}
        assert set(nix(container, "--query", "--requisites", str(environment.path), path).split()) == closures
        plain = node.pod(environment=environment.reference).container(["true"])
        assert path not in plain.env["PATH"]


def test_a_service_that_ends_leaves_no_stock(make_node: MakeNode) -> None:
    node = make_node()
    pod = mutable_pod(node, registered(node))
    pod.container(["true"])
    until(lambda: len(layers(node)) == 2)
    node.plugin.stop()
    assert len(layers(node)) == 1
    assert not events(node, "internal_error")
