"""A container sees the closure of its own environment, read-only, and nothing else of the node's store."""

from __future__ import annotations

from pathlib import Path

from nri_flox.demo import render
from nri_flox.demo.node import SHELL, Node
from tests.node.sample import Published, publish


def closure(environment: Published) -> list[str]:
    lines = (environment.directory / "requisites.txt").read_text().splitlines()
    return sorted(line.removeprefix("/nix/store/") for line in lines)


def padding(node: Node, environment: Published) -> list[Path]:
    return [node.store_dir / name for name in closure(environment) if "-padding-" in name]


def test_only_the_own_closure_is_listed(node: Node) -> None:
    environment = publish(node, packages=[render.Package("mine", {"share/mine": "x"})])
    publish(node, packages=[render.Package("theirs", {"share/theirs": "y"})])
    said = node.pod(environment=environment.reference).run(["sh", "-c", "ls -A /nix/store; ls -A /nix"])
    assert said.stdout.splitlines() == [*closure(environment), "nri-flox", "store"]


def test_a_path_of_another_environment_cannot_be_guessed(node: Node) -> None:
    environment = publish(node)
    theirs = publish(node, packages=[render.Package("theirs", {"share/secret": "secret"})])
    neighbour = node.pod(environment=theirs.reference).container(["sleep", "1000"]).start()
    secret = f"{theirs.path}/share/secret"
    assert neighbour.exec(["cat", secret]).stdout == "secret"
    said = node.pod(environment=environment.reference).run(
        ["sh", "-c", f"cat {secret}; cat /nix/store/../store/{theirs.path.name}/share/secret; ls {theirs.path}"],
        image=SHELL,
    )
    assert said.stdout == ""
    assert said.stderr.count("No such file") == 3


def test_the_container_has_one_mount_of_the_store(node: Node) -> None:
    environment = publish(node, extra_paths=50)
    mounts = node.pod(environment=environment.reference).container(["true"]).spec["mounts"]
    assert [mount["destination"] for mount in mounts if mount["destination"].startswith("/nix")] == [
        "/nix/store",
        "/nix/nri-flox/cache",
    ]


def test_root_in_the_container_cannot_write_to_the_store(node: Node) -> None:
    environment = publish(node)
    attempts = [
        "touch /nix/store/new",
        f"touch {environment.path}/new",
        f"echo evil > {environment.path}/requisites.txt",
        f"rm -r {environment.path}",
        f"chmod 777 {environment.path}",
        f"mv {environment.path} /nix/store/moved",
    ]
    said = node.pod(environment=environment.reference).run(["sh", "-c", "; ".join(attempts)], image=SHELL)
    assert said.stderr.count("Read-only file system") >= len(attempts)
    assert closure(environment)


def test_a_closure_of_three_hundred_paths_is_whole(node: Node) -> None:
    environment = publish(node, extra_paths=300)
    said = node.pod(environment=environment.reference).run(["sh", "-c", "cat /nix/store/*/number; ls /nix/store"])
    numbers = "".join(path.joinpath("number").read_text() for path in padding(node, environment))
    assert said.stdout == numbers + "".join(f"{name}\n" for name in closure(environment))
    assert len(closure(environment)) > 300


def test_a_store_path_that_links_to_the_root_leads_to_the_containers_own(node: Node) -> None:
    link = render.add_path(str(node.store_dir), "root", render.Link("/"))
    environment = publish(node, extra_paths=300, closure=[link])
    said = node.pod(environment=environment.reference).run(
        ["sh", "-c", f"readlink {link}; cat {link}/etc/group; ls -d {link}{node.directory}"], image=SHELL
    )
    assert said.stdout == "/\nroot:x:0:\napp:x:1000:\n"
    assert "No such file" in said.stderr


def test_a_link_to_a_file_of_the_node_shows_none_of_it(node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the node's")
    link = render.add_path(str(node.store_dir), "file", {"share/secret": render.Link(str(secret))})
    environment = publish(node, packages=[link])
    said = node.pod(environment=environment.reference).run(
        ["sh", "-c", f"cat {link}/share/secret {environment.path}/share/secret"]
    )
    assert said.stdout == ""
    assert said.stderr.count("No such file") == 2
