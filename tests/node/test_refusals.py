"""What keeps a container from being created, and what the pod's events then say about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nri_flox.demo.cri import Mount
from nri_flox.demo.node import SHELL, Node, Pod
from tests.node.sample import Published, decisions, publish, publish_tampered, refusal

TOOLS = {"flox.dev/environment": "acme/tools"}

# Annotations, and what the text holds.
BAD_ANNOTATIONS: list[tuple[Mapping[str, str], list[str]]] = [
    ({"flox.dev/environment": "tools"}, ["flox.dev/environment", '"tools"', "owner/name"]),
    ({"flox.dev/environment": "acme/tools:0"}, ['"acme/tools:0"', "owner/name"]),
    ({"flox.dev/environment": ""}, ["flox.dev/environment", '""']),
    ({"flox.dev/environment": "../tools"}, ['"../tools"']),
    ({**TOOLS, "flox.dev/environment.main": "x y"}, ["flox.dev/environment.main", '"x y"']),
    ({**TOOLS, "flox.dev/activate-mode": "fast"}, ["acme/tools", "flox.dev/activate-mode", '"fast"', "run or dev"]),
    ({**TOOLS, "flox.dev/disable-metrics": "1"}, ["acme/tools", "flox.dev/disable-metrics", '"1"', "true or false"]),
    ({**TOOLS, "flox.dev/nix-mutable": "yes"}, ["acme/tools", "flox.dev/nix-mutable", '"yes"', "true or false"]),
    (
        {**TOOLS, "flox.dev/pull-policy": "always"},
        ["acme/tools", "flox.dev/pull-policy", "Always", "IfNotPresent", "Never"],
    ),
    ({**TOOLS, "flox.dev/skip-containers": "*," * 200}, ["flox.dev/skip-containers", "patterns"]),
]


@pytest.mark.parametrize(("annotations", "words"), BAD_ANNOTATIONS, ids=lambda value: next(reversed(value)))
def test_an_annotation_that_does_not_fit(node: Node, annotations: Mapping[str, str], words: list[str]) -> None:
    text = refusal(node.pod(annotations=annotations))
    assert text.startswith("flox: ")
    assert [word for word in ['"main"', *words] if word not in text] == [], text


def test_a_bad_value_for_one_container_is_none_of_the_others_business(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference, annotations={"flox.dev/environment.worker": "no reference"})
    assert "flox.dev/environment.worker" in refusal(pod, "worker")
    assert pod.run(["true"], "main").exit_code == 0


def test_an_unknown_environment(node: Node) -> None:
    text = refusal(node.pod(environment="acme/nowhere"))
    assert text.startswith('flox: environment acme/nowhere for container "main" was not found ')
    assert "needs a token" in text


def test_what_is_published_after_a_refusal_is_found_by_a_later_try(node: Node) -> None:
    with node.reconfigured({"environments": {"fresh_for": "100ms"}}):
        pod = node.pod(environment="acme/late")
        assert "was not found" in refusal(pod)
        publish(node, "acme/late")
        time.sleep(0.2)
        assert pod.run(["true"]).exit_code == 0


@pytest.mark.parametrize("rendering", [{"hook": "echo hello"}, {"vars": {"NOW": "$(date)"}}], ids=["hook", "command"])
def test_an_environment_that_needs_a_shell_and_has_none_in_its_closure(node: Node, rendering: dict[str, Any]) -> None:
    environment = publish(node, **rendering)
    text = refusal(node.pod(environment=environment.reference))
    assert text.startswith(f'flox: environment {environment.reference} for container "main" needs a shell')
    assert "the interpreter of its activate script does not belong to its closure" in text


def test_a_variable_that_only_the_process_knows_needs_a_shell_too(node: Node) -> None:
    environment = publish(node, vars={"DATA": "$HOME/data"})
    pod = node.pod(environment=environment.reference)
    assert "HOME is not in the container's env" in refusal(pod)
    assert pod.container(["true"], "with-home", env={"HOME": "/h"}).env["DATA"] == "/h/data"


@pytest.mark.parametrize("place", ["/nix", "/nix/store", "/nix/nri-flox/cache", "/srv/../nix//store/"])
def test_a_mount_at_or_below_nix(node: Node, place: str) -> None:
    environment = publish(node)
    text = refusal(node.pod(environment=environment.reference), image=SHELL, mounts=[Mount(node.log_dir, place)])
    assert text.startswith(f'flox: environment {environment.reference} for container "main"')
    assert '"/nix' in text
    assert "mount" in text


def test_a_mount_beside_nix_is_fine(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    assert pod.run(["true"], mounts=[Mount(node.log_dir, "/nixos"), Mount(node.log_dir, "/srv/nix")]).exit_code == 0


def test_a_pod_of_the_flox_handler_that_names_no_environment(node: Node) -> None:
    text = refusal(node.pod(handler="flox"), image=SHELL)
    assert text.startswith('flox: container "main": ')
    assert 'runtime handler "flox"' in text
    assert "names no environment" in text


def test_a_pod_of_the_flox_handler_runs_in_its_environment(node: Node) -> None:
    environment = publish(node)
    assert node.pod(environment=environment.reference, handler="flox").run(["sh", "-c", "true"]).exit_code == 0


def test_a_node_may_require_the_handler(node: Node) -> None:
    environment = publish(node)
    with node.reconfigured({"runtime": {"require_handler": True}}):
        text = refusal(node.pod(environment=environment.reference))
        assert text.startswith("flox: ")
        assert [word for word in (environment.reference, '"main"', '"flox"') if word not in text] == [], text
        assert node.pod(environment=environment.reference, handler="flox").run(["true"]).exit_code == 0
        assert node.pod().run(["true"], image=SHELL).exit_code == 0


def test_a_policy_says_who_may_have_what(node: Node) -> None:
    allowed = publish(node, "trusted/tools:1")
    rules = [
        {"namespaces": ["shop-*"], "allow": ["trusted/*"], "pinned_only": True},
        {"namespaces": ["kube-system"], "allow": []},
    ]
    with node.reconfigured({"policy": {"default": "deny", "rule": rules}}):
        for namespace, reference in [
            ("shop-1", "acme/tools:1"),
            ("shop-1", "trusted/tools"),
            ("kube-system", "trusted/tools:1"),
            ("default", "trusted/tools:1"),
        ]:
            text = refusal(node.pod(environment=reference, namespace=namespace))
            assert text.startswith(f'flox: environment {reference} for container "main"')
            assert "the policy of this node does not allow" in text
        assert node.pod(environment=allowed.reference, namespace="shop-1").run(["true"]).exit_code == 0


def to_host_file(place: Path) -> None:
    place.symlink_to("/etc/shadow")


def to_device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def to_itself(place: Path) -> None:
    place.symlink_to(place.name)


def endless(place: Path) -> None:
    place.touch()
    os.truncate(place, 5 << 20)


def writing(line: str) -> Callable[[Path], object]:
    return lambda place: place.write_text(f"{line}\n")


HOSTILE: list[Callable[[Path], None]] = [os.mkfifo, to_host_file, to_device, to_itself, endless, Path.mkdir]


def pod_of(node: Node, environments: Iterable[Published]) -> Pod:
    """A pod with a container `c-N` for each environment."""
    return node.pod(annotations={f"flox.dev/environment.c-{n}": env.reference for n, env in enumerate(environments)})


@pytest.mark.parametrize("file", ["activate", "activate.d/envrc", "requisites.txt"])
def test_a_hostile_file_of_an_environment(node: Node, file: str) -> None:
    environments = [publish_tampered(node, file, put) for put in HOSTILE]
    pod = pod_of(node, environments)
    for number, environment in enumerate(environments):
        text = refusal(pod, f"c-{number}")
        assert text.startswith(f'flox: environment {environment.reference} for container "c-{number}" can\'t be used')
        assert Path(file).name in text
        assert "root:" not in text, "that is how /etc/shadow begins"
    assert max(entry["ms"] for entry in decisions(node, pod, len(HOSTILE))) < 1900
    assert pod.run(["true"], "bystander", image=SHELL).exit_code == 0


def test_a_closure_that_names_what_is_no_store_path(node: Node) -> None:
    lines = ["/etc", "/nix/store", "/nix/store/..", "/nix/store/x/../../../etc", "../etc"]
    pod = pod_of(node, [publish_tampered(node, "requisites.txt", writing(line)) for line in lines])
    for number, line in enumerate(lines):
        assert f'names "{line}", which is no store path' in refusal(pod, f"c-{number}")


def test_a_hostile_manifest_lock_is_never_followed(node: Node) -> None:
    environment = publish_tampered(node, "manifest.lock", lambda place: place.symlink_to(node.plugin.config_file))
    said = node.pod(environment=environment.reference).run(["cat", f"{environment.path}/manifest.lock"])
    assert (said.stdout, said.exit_code) == ("", 1)
    assert "No such file" in said.stderr


def test_a_store_path_that_is_missing_from_the_closure(node: Node) -> None:
    absent = "/nix/store/" + "z" * 32 + "-absent"
    environment = publish_tampered(node, "requisites.txt", writing(absent))
    text = refusal(node.pod(environment=environment.reference))
    assert f"{absent} is missing from the store" in text
