"""The service as the runtime sees it, over a real directory of environments but without a runtime."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nri_flox.demo.render import Executable, Package, render
from nri_flox.environments.supply import StateDirInUse
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.nri_pb2 import Container, CreateContainerResponse, PodSandbox
from nri_flox.nri.plugin import RuntimeInfo
from nri_flox.service.service import Service
from nri_flox.ttrpc.driver import Call
from nri_flox.ttrpc.status import StatusError

RUNTIME = RuntimeInfo("containerd", "2.1.9", "", Capabilities.of("containerd", "2.1.9"), 2.0, 5.0)


class Place:
    """A node's directories, and the config that names them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.configure()

    def configure(self, **environments: str) -> None:
        keys = {"wait_budget": "300ms", "fresh_for": "0s", **environments}
        lines = "\n".join(f'{key} = "{value}"' for key, value in keys.items())
        self.config.write_text(f"""
            [environments]
            source = "directory"
            directory = "{self.root}/environments"
            state_dir = "{self.root}/state"
            wait_share = 1.0
            {lines}
            [nix]
            store_dir = "{self.root}/store"
            state_dir = "{self.root}/nix"
            view_dir = "{self.root}/views"
            [token]
            kubelet_root = "{self.root}/kubelet"
        """)

    def publish(self, reference: str = "acme/tools", greeting: str = "hello") -> str:
        owner, name = reference.split("/")
        package = Package("greeter-1", {"bin/greet": Executable(f"#!/bin/sh\necho {greeting}\n")})
        path = render(f"{self.root}/store", owner, name, vars={"GREETING": greeting}, packages=[package])
        links = self.root / "environments" / owner / name
        links.mkdir(parents=True, exist_ok=True)
        (links / "live").unlink(missing_ok=True)
        (links / "live").symlink_to(str(path))
        return str(path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def service(place: Place) -> Iterator[Service]:
    service = Service(str(place.config))
    service.configure(RUNTIME, "")
    yield service
    service.close()


def pod(identity: str = "sandbox", **annotations: str) -> PodSandbox:
    named = {f"flox.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return PodSandbox(id=identity, uid=f"uid-{identity}", name="web-0", namespace="shop", annotations=named)


def create(service: Service, sandbox: PodSandbox, name: str = "main") -> CreateContainerResponse:
    call = Call(None)
    try:
        answered = service.create_container(sandbox, Container(name=name, env=["PATH=/bin", "HOME=/"]), call)
    finally:
        call.run_afterwards()
    return CreateContainerResponse.FromString(answered)


def env(response: CreateContainerResponse) -> dict[str, str]:
    return {entry.key: entry.value for entry in response.adjust.env}


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_container_is_adjusted_although_its_pod_was_never_seen(place: Place, service: Service) -> None:
    path = place.publish()
    assert env(create(service, pod(environment="acme/tools")))["FLOX_ENV"] == path


def test_bystander_gets_an_empty_answer(service: Service) -> None:
    assert create(service, pod()) == CreateContainerResponse()


def test_refusal_is_an_error_with_the_text(service: Service) -> None:
    with pytest.raises(StatusError, match=r"^flox: environment acme/nothing .* was not found in"):
        create(service, pod(environment="acme/nothing"))


def test_pod_keeps_its_environment_while_new_pods_get_the_newest(place: Place, service: Service) -> None:
    first = place.publish(greeting="hello")
    old, new = pod("old", environment="acme/tools"), pod("new", environment="acme/tools")
    assert env(create(service, old))["FLOX_ENV"] == first
    second = place.publish(greeting="goodbye")
    assert env(create(service, new))["FLOX_ENV"] == second != first
    assert env(create(service, old, "second"))["FLOX_ENV"] == first


def test_pod_that_is_gone_is_forgotten(place: Place, service: Service) -> None:
    first = place.publish(greeting="hello")
    sandbox = pod(environment="acme/tools")
    assert env(create(service, sandbox))["FLOX_ENV"] == first
    service.remove_pod_sandbox(sandbox)
    second = place.publish(greeting="goodbye")
    assert env(create(service, sandbox))["FLOX_ENV"] == second


def test_environment_is_ready_before_the_container_is_asked_for(place: Place, service: Service) -> None:
    place.publish()
    service.run_pod_sandbox(pod(environment="acme/tools"))
    until(lambda: any((place.root / "views").iterdir()))


def test_pods_that_run_already_are_looked_at_too(place: Place, service: Service) -> None:
    place.publish()
    service.synchronize([pod(environment="acme/tools")], [], more=False)
    until(lambda: any((place.root / "views").iterdir()))


def test_answer_comes_within_the_budget_however_long_it_takes(
    place: Place, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.publish()
    go_on = threading.Event()
    link = os.link

    def slow_link(*args: str, **more: int) -> None:
        go_on.wait(10)
        link(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", slow_link)
    sandbox = pod(environment="acme/tools")
    try:
        began = time.monotonic()
        with pytest.raises(StatusError, match="is being pulled"):
            create(service, sandbox)
        assert time.monotonic() - began < 2  # its budget is 0.3 s; the machine may be busy
    finally:
        go_on.set()
    until(lambda: any(not path.name.startswith(".") for path in (place.root / "views").iterdir()))
    assert create(service, sandbox).adjust.mounts


def test_budget_is_at_most_half_of_the_runtimes_patience(place: Place) -> None:
    place.configure(wait_budget="60s")
    service = Service(str(place.config))
    try:
        service.configure(RUNTIME, "")
        assert 0.9 < service._setting.budget < 1.0
    finally:
        service.close()


def test_waits_of_all_requests_share_a_part_of_the_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.config.write_text(place.config.read_text().replace("wait_share = 1.0", "wait_share = 0.05"))
    place.publish()
    go_on = threading.Event()
    monkeypatch.setattr(os, "link", lambda *_args, **_more: go_on.wait(20))
    service = Service(str(place.config))
    try:
        service.configure(RUNTIME, "")
        taken = []
        for number in range(4):
            began = time.monotonic()
            with pytest.raises(StatusError, match="is being pulled"):
                create(service, pod(f"p{number}", environment="acme/tools"))
            taken.append(time.monotonic() - began)
        assert taken[0] > 0.25  # its own budget, 0.3 s
        assert sum(taken[2:]) < 0.4  # of the half second that all have in ten, nothing is left
    finally:
        go_on.set()
        service.close()


def test_pods_keep_their_environment_over_a_reload(place: Place, service: Service) -> None:
    first = place.publish(greeting="hello")
    sandbox = pod(environment="acme/tools")
    assert env(create(service, sandbox))["FLOX_ENV"] == first
    place.publish(greeting="goodbye")
    place.configure(pull_timeout="5m")
    service.reload()
    assert env(create(service, sandbox, "second"))["FLOX_ENV"] == first


def test_pods_that_are_gone_after_a_lost_connection_are_forgotten(place: Place, service: Service) -> None:
    place.publish()
    gone, stays = pod("gone", environment="acme/tools"), pod("stays", environment="acme/tools")
    service.synchronize([gone, stays], [], more=False)
    service.synchronize([stays], [], more=False)
    catalogue = service._setting.supply.catalogue
    assert catalogue.pod("gone") is None
    assert catalogue.pod("stays") is not None


def test_second_service_on_the_same_state_is_refused(place: Place, service: Service) -> None:
    with pytest.raises(StateDirInUse, match="in use by another"):
        Service(str(place.config))


def test_reload_takes_all_of_a_new_config(place: Place, service: Service) -> None:
    place.publish()
    place.config.write_text(place.config.read_text() + '[policy]\ndefault = "deny"\n')
    service.reload()
    with pytest.raises(StatusError, match="the policy of this node does not allow"):
        create(service, pod(environment="acme/tools"))


def test_reload_of_a_broken_config_changes_nothing(place: Place, service: Service) -> None:
    place.publish()
    place.config.write_text(place.config.read_text() + '[policy]\ndefault = "deny"\nunknown = 1\n')
    service.reload()
    assert create(service, pod(environment="acme/tools")).adjust.mounts


def test_reload_that_moves_the_state_frees_the_old_place(place: Place, service: Service) -> None:
    place.publish()
    moved = place.config.read_text().replace(f"{place.root}/state", f"{place.root}/elsewhere")
    old = place.config.read_text()
    place.config.write_text(moved)
    service.reload()
    assert create(service, pod(environment="acme/tools")).adjust.mounts
    place.config.write_text(old)

    def free() -> bool:
        try:
            Service(str(place.config)).close()
        except StateDirInUse:
            return False
        return True

    until(free)


def test_drop_in_of_the_runtime_goes_before_the_file(place: Place, service: Service) -> None:
    place.publish()
    service.configure(RUNTIME, '[policy]\ndefault = "deny"\n')
    with pytest.raises(StatusError, match="the policy of this node does not allow"):
        create(service, pod(environment="acme/tools"))


def test_launched_service_touches_no_directory_before_the_runtime_has_named_it(place: Place) -> None:
    place.publish()
    service = Service(str(place.config), launched=True)
    try:
        assert not (place.root / "state").exists()
        service.configure(RUNTIME, f'[environments]\nstate_dir = "{place.root}/own"\n')
        assert create(service, pod(environment="acme/tools")).adjust.mounts
        assert (place.root / "own").is_dir()
        assert not (place.root / "state").exists()
    finally:
        service.close()


def test_broken_drop_in_refuses_the_configuration(service: Service) -> None:
    with pytest.raises(StatusError, match="unknwon"):
        service.configure(RUNTIME, "unknwon = 1\n")


def test_metrics_are_off_for_all_when_the_service_runs_with_them_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.publish()
    monkeypatch.setenv("FLOX_DISABLE_METRICS", "1")
    service = Service(str(place.config))
    try:
        assert env(create(service, pod(environment="acme/tools")))["FLOX_DISABLE_METRICS"] == "1"
    finally:
        service.close()
