"""Which containers of a pod that names an environment are left alone."""

from __future__ import annotations

import pytest

from nri_flox.demo.cri import Mount
from nri_flox.demo.node import SHELL, Node, Pod
from tests.node.sample import decisions, events, publish


def adjusted(pod: Pod, name: str) -> bool:
    return "flox.dev/store-path" in pod.container(["true"], name, image=SHELL).annotations


def test_the_pods_skip_list_takes_patterns_and_blanks(node: Node) -> None:
    environment = publish(node)
    skip = {"flox.dev/skip-containers": " proxy, ,log-* ,debug-? "}
    pod = node.pod(environment=environment.reference, annotations=skip)
    names = ["main", "proxy", "log-", "log-shipper", "debug-1", "debug-12", "proxy2"]
    assert [name for name in names if adjusted(pod, name)] == ["main", "debug-12", "proxy2"]
    skipped = [entry["container"] for entry in decisions(node, pod, len(names)) if entry["decision"] == "skipped"]
    assert skipped == ["proxy", "log-", "log-shipper", "debug-1"]


def test_the_node_skips_usual_sidecars_unless_asked_for(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(
        environment=environment.reference,
        annotations={"flox.dev/environment.linkerd-proxy": environment.reference},
    )
    names = ["istio-proxy", "debugger-x7f", "linkerd-proxy", "main"]
    assert [name for name in names if adjusted(pod, name)] == ["linkerd-proxy", "main"]


def test_a_skip_list_that_matches_nothing_is_fine(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference, annotations={"flox.dev/skip-containers": "nobody,,"})
    assert adjusted(pod, "main")


@pytest.mark.parametrize(
    "bad",
    [
        {"flox.dev/environment": "no reference"},
        {"flox.dev/environment.proxy": "no reference"},
        {"flox.dev/activate-mode": "fast"},
        {"flox.dev/nix-mutable": "yes"},
        {"flox.dev/pull-policy": "Sometimes"},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_bad_value_never_touches_a_skipped_container(node: Node, bad: dict[str, str]) -> None:
    annotations = {"flox.dev/environment": "acme/tools", "flox.dev/skip-containers": "proxy", **bad}
    pod = node.pod(annotations=annotations)
    assert not adjusted(pod, "proxy")


def test_a_skipped_container_may_mount_something_at_nix(node: Node) -> None:
    pod = node.pod(environment="acme/tools", annotations={"flox.dev/skip-containers": "own-nix"})
    said = pod.run(["ls", "/nix"], "own-nix", image=SHELL, mounts=[Mount(node.directory / "nix", "/nix")])
    assert said.stdout == "store\nvar\n"


def test_an_unknown_annotation_is_logged_once_for_its_pod(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference, annotations={"flox.dev/activate-mod": "dev"}, name="typo")
    for name in ("one", "two"):
        assert adjusted(pod, name)
    decisions(node, pod, 2)
    warned = events(node, "unknown_annotation", pod="typo")
    assert len(warned) == 1
    assert warned[0]["level"] == "warning"
    assert "flox.dev/activate-mod" in warned[0]["annotations"]
