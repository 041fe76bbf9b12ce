"""Images that hold nothing: what the plugin puts where scripts and programs expect it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nri_flox.demo import images, render
from nri_flox.demo.cri import Mount
from nri_flox.demo.node import EMPTY, SHELL, Node
from tests.node.sample import publish

USER = 4242


def test_scripts_find_their_interpreter_by_absolute_path(node: Node, tmp_path: Path) -> None:
    for name, first in (("by-sh", "/bin/sh"), ("by-env", "/usr/bin/env sh")):
        (tmp_path / name).write_text(f"#!{first}\necho {name}\n")
        (tmp_path / name).chmod(0o755)
    pod = node.pod(environment=publish(node).reference)
    mounts = [Mount(tmp_path, "/scripts", read_only=True)]
    for name in ("by-sh", "by-env"):
        assert pod.run([f"/scripts/{name}"], name, mounts=mounts).stdout == f"{name}\n"


def test_an_absolute_shell_is_pid_1_itself(node: Node) -> None:
    pod = node.pod(environment=publish(node).reference)
    assert pod.run(["/bin/sh", "-c", "echo $$ $0"]).stdout == "1 /bin/sh\n"


@pytest.mark.parametrize("user", [0, 1000])
def test_anybody_may_write_temporary_files_even_with_a_read_only_root(node: Node, user: int) -> None:
    said = node.pod(environment=publish(node).reference).run(
        ["sh", "-c", "echo text > /tmp/file; cat /tmp/file"], run_as_user=user, read_only_root=True
    )
    assert (said.stdout, said.stderr) == ("text\n", "")


def test_the_usual_users_have_a_name_on_every_runtime(node: Node) -> None:
    pod = node.pod(environment=publish(node).reference)
    for user, name in ((0, "root"), (1000, "user1000"), (65534, "nobody")):
        assert pod.run(["id", "-un"], f"as-{user}", run_as_user=user).stdout == f"{name}\n"


def test_any_user_has_a_name_where_the_runtime_tells_who_it_is(node: Node, containerd_release: str) -> None:
    said = node.pod(environment=publish(node).reference).run(
        ["sh", "-c", "cat /etc/passwd; echo $HOME"], run_as_user=USER, run_as_group=77
    )
    if containerd_release in ("1.7", "2.1"):
        assert str(USER) not in said.stdout, "NRI 0.11 and later tell, these are older"
    else:
        assert said.stdout.endswith(f"user{USER}:x:{USER}:77::/tmp:/bin/sh\n/tmp\n")


def test_the_accounts_cannot_be_changed_from_inside(node: Node) -> None:
    script = "echo evil:x:0:0::/:/bin/sh >> /etc/passwd; rm -f /bin/sh; echo x > /usr/bin/env; cat /etc/passwd"
    pod = node.pod(environment=publish(node).reference)
    assert "evil" not in pod.run(["sh", "-c", script], "one").stdout
    assert "root:x:0:0" in pod.run(["sh", "-c", "cat /etc/passwd"], "two").stdout


def test_an_image_by_digest_is_known_too(node: Node) -> None:
    digest = images.empty().pinned
    said = node.pod(environment=publish(node).reference).run(["/bin/sh", "-c", "echo here"], image=digest)
    assert said.stdout == "here\n"


def test_what_the_pod_mounts_is_its_own(node: Node, tmp_path: Path) -> None:
    temporary, accounts, volume = tmp_path / "tmp", tmp_path / "passwd", tmp_path / "bin"
    temporary.mkdir()
    volume.mkdir()
    (temporary / "mine").touch()
    accounts.write_text("me:x:0:0::/:\n")
    mounts = [Mount(temporary, "/tmp"), Mount(accounts, "/etc/passwd"), Mount(volume, "/bin")]
    said = node.pod(environment=publish(node).reference).run(
        ["sh", "-c", "ls /tmp /bin; cat /etc/passwd; cat /etc/group"], mounts=mounts
    )
    assert said.stdout.startswith("/bin:\n\n/tmp:\nmine\nme:x:0:0::/:\nroot:x:0:\n")
    assert not list(volume.iterdir()), "no mount point is made in a volume"


def test_an_image_of_its_own_is_left_as_it_is(node: Node) -> None:
    destinations = {
        mount["destination"]
        for mount in node.pod(environment=publish(node).reference).container(["true"], image=SHELL).spec["mounts"]
    }
    assert not destinations & {"/tmp", "/etc/passwd", "/etc/group", "/bin/sh", "/usr/bin/env"}


def test_a_shell_that_is_a_link_out_of_the_closure_is_not_there(node: Node) -> None:
    links = {"bin/sh": render.Link("/bin/sh"), "bin/env": render.Link("/")}
    node.provide("acme/evil-links", packages=[render.Package("evil", links)])
    container = node.pod(environment="acme/evil-links").container(["true"], image=EMPTY)
    assert not {mount["destination"] for mount in container.spec["mounts"]} & {"/bin/sh", "/usr/bin/env"}
