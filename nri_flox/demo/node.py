"""A whole private node: containerd, the plugin, a store with rendered environments, volumes as a kubelet leaves
them.

Everything lies below one directory, which is all that has to be removed after it. For the demo, the node tests and
the benchmarks; nothing here is needed on a real node.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nri_flox.demo import cri, kubelet, packages, traces
from nri_flox.demo.containerd import Containerd
from nri_flox.demo.images import applets_of
from nri_flox.demo.plugin import Plugin
from nri_flox.demo.render import Executable, Link, add_path, render
from nri_flox.flox.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nri_flox.flox.store import StorePath

    _Sections = Mapping[str, Mapping[str, object]]

EMPTY = "flox/empty:1.0.0"
SHELL = "busybox:1"


class Node:
    """A node below `directory`, which must be empty and have a short path, with containerd `release` (None: any).

    As a context manager it is up, plugin included, from start to stop; without `plugin`, containerd alone is.
    `settings` go over the plugin's config, section by section.
    """

    def __init__(
        self,
        directory: Path,
        release: str | None = None,
        *,
        plugin: bool = True,
        settings: _Sections | None = None,
        request_timeout: float = 2.0,
    ) -> None:
        self.directory = directory
        self.store_dir = directory / "nix/store"
        self.view_dir = directory / "nix/var/nri-flox"
        self.state_dir = directory / "state"
        self.environments_dir = directory / "environments"
        self.kubelet_root = directory / "kubelet"
        self.log_dir = directory / "pods"
        for place in (self.store_dir, directory / "nix/var/nix", self.environments_dir, self.kubelet_root):
            place.mkdir(parents=True)
        self.containerd = Containerd(directory / "containerd", release, request_timeout=request_timeout)
        self.cri = self.containerd.cri
        self.settings = settings or {}
        self.plugin = Plugin(directory / "plugin", self._config(self.settings))
        self._with_plugin = plugin
        self._running: list[Pod] = []
        self._started = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.callback(traces.unmount, self.directory)  # what containers wrote to a /nix of their own
            starting.enter_context(self.containerd)
            starting.callback(self.plugin.stop)
            if self._with_plugin:
                self.start_plugin()
            self._started = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def start_plugin(self) -> None:
        """Starts the plugin and waits until the runtime has told it all pods."""
        self.plugin.start()
        self.plugin.wait_connected()

    @contextmanager
    def reconfigured(self, settings: _Sections) -> Iterator[None]:
        """Runs the plugin with more `settings` for a while: it is stopped and started before and after."""
        try:
            self._restart_plugin(_over(self.settings, settings))
            yield
        finally:
            self._restart_plugin(self.settings)

    def publish(self, reference: str, path: StorePath, *, live: bool = True, dev: bool = False) -> None:
        """Makes `path` the environment `owner/name`, or its generation `owner/name:N`, which is also its live one
        unless said otherwise; with `dev` for dev mode alone."""
        parsed = Reference.parse(reference)
        links = self.environments_dir / parsed.owner / parsed.name
        links.mkdir(parents=True, exist_ok=True)
        target, suffix = str(path), "-dev" if dev else ""
        if parsed.generation is not None:
            _link(links / f"{parsed.generation}{suffix}", target)
            target = f"{parsed.generation}{suffix}"
        if live or parsed.generation is None:
            _link(links / f"live{suffix}", target)

    def provide(self, reference: str, **rendering: Any) -> StorePath:
        """Renders an environment into the store, by the arguments of `render.render`, and publishes it."""
        parsed = Reference.parse(reference)
        path = render(str(self.store_dir), parsed.owner, parsed.name, **rendering)
        self.publish(reference, path)
        return path

    def busybox(self) -> StorePath:
        """A package in the store with busybox and all that it can be, `sh` and `env` among it."""
        program = packages.busybox()
        applets = {f"bin/{name}": Link("busybox") for name in applets_of(program)}
        return add_path(str(self.store_dir), "busybox", {**applets, "bin/busybox": Executable(program.read_bytes())})

    def pod(
        self,
        *,
        environment: str | None = None,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        namespace: str = "default",
        uid: str | None = None,
        handler: str = "",
        shared_pid: bool = False,
        host_users: bool = True,
    ) -> Pod:
        """Runs a pod's sandbox; `environment` is short for its annotation. Raises `cri.CriError`."""
        wanted = {"flox.dev/environment": environment} if environment is not None else {}
        pod_name = name or f"pod-{uuid.uuid4().hex[:8]}"
        sandbox = self.cri.run_pod(
            pod_name,
            self.log_dir / pod_name,
            namespace=namespace,
            uid=uid,
            annotations={**wanted, **(annotations or {})},
            labels=labels,
            handler=handler,
            shared_pid=shared_pid,
            host_users=host_users,
        )
        pod = Pod(self, sandbox)
        self._running.append(pod)
        return pod

    def secret(
        self, pod_uid: str, files: Mapping[str, str | bytes], *, volume: str = "secret-volume", projected: bool = False
    ) -> Path:
        """A secret volume of a pod, which may be still to come, as the kubelet lays it out; gives its directory."""
        return kubelet.secret_volume(self.kubelet_root, pod_uid, volume, files, projected=projected)

    def remove_pods(self) -> None:
        """Takes all pods of this node away."""
        while self._running:
            self._running.pop().remove()

    def _restart_plugin(self, settings: _Sections) -> None:
        self.plugin.stop()
        self.plugin.configure(self._config(settings))
        self.start_plugin()

    def _config(self, settings: _Sections) -> _Sections:
        config: _Sections = {
            "nri": {"socket_path": self.containerd.nri_socket},
            "environments": {
                "source": "directory",
                "directory": self.environments_dir,
                "state_dir": self.state_dir,
            },
            "nix": {
                "store_dir": self.store_dir,
                "state_dir": self.directory / "nix/var/nix",
                "view_dir": self.view_dir,
            },
            "token": {"kubelet_root": self.kubelet_root},
            "log": {"level": "debug"},
        }
        return _over(config, settings)


class Pod:
    """A pod that runs on `node`."""

    def __init__(self, node: Node, sandbox: cri.Pod) -> None:
        self.node = node
        self.sandbox = sandbox
        self._containers = 0

    @property
    def uid(self) -> str:
        """The one that Kubernetes gives."""
        return self.sandbox.uid

    def container(
        self,
        command: Sequence[str],
        name: str = "main",
        *,
        image: str = EMPTY,
        attempt: int = 0,
        **more: Any,
    ) -> Container:
        """Creates a container; `more` are fields of `cri.Container`. Raises `cri.CreateFailed`."""
        wanted = cri.Container(name, image, command, **more)
        return Container(self, self.node.cri.create(self.sandbox, wanted, attempt))

    def run(self, command: Sequence[str], name: str = "main", **more: Any) -> cri.Output:
        """Creates a container, runs it to its end, and gives what it wrote."""
        return self.container(command, name, **more).finish()

    def remove(self) -> None:
        """Stops and removes the pod with its containers and volumes. Can be said again."""
        self.node.cri.stop_pod(self.sandbox)
        self.node.cri.remove_pod(self.sandbox)
        kubelet.forget(self.node.kubelet_root, self.uid)


class Container:
    """A container that was created in `pod`; `id` is the runtime's."""

    def __init__(self, pod: Pod, identity: str) -> None:
        self.pod = pod
        self.id = identity
        self._cri = pod.node.cri

    @property
    def spec(self) -> dict[str, Any]:
        """The OCI runtime spec, after what NRI plugins made of it."""
        spec: dict[str, Any] = self._cri.info(self.id)["runtimeSpec"]
        return spec

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that the spec gives the main process."""
        return dict(entry.split("=", 1) for entry in self.spec["process"]["env"])

    @property
    def annotations(self) -> dict[str, str]:
        """The spec's, those that NRI plugins set included."""
        return dict(self.spec["annotations"])

    @property
    def pid(self) -> int:
        """The main process on the host."""
        return int(self._cri.info(self.id)["pid"])

    def start(self) -> Self:
        """Raises `cri.StartFailed`."""
        self._cri.start(self.id)
        return self

    def wait(self, timeout: float = 30.0) -> cri.Output:
        """Waits for its end and gives what it wrote; raises `TimeoutError`."""
        return cri.output(self.pod.sandbox, self._cri.wait(self.id, timeout))

    def finish(self, timeout: float = 30.0) -> cri.Output:
        """Starts it, waits for its end and gives what it wrote."""
        return self.start().wait(timeout)

    def output(self) -> cri.Output:
        """What it has written so far."""
        return cri.output(self.pod.sandbox, self._cri.status(self.id))

    def exec(self, command: Sequence[str], timeout: int = 30) -> cri.Output:
        """Runs a command in it, as `kubectl exec` does; raises `cri.CriError`."""
        return self._cri.exec(self.id, command, timeout)

    def stop(self, timeout: int = 10) -> cri.Output:
        """The stop signal, SIGKILL after `timeout` seconds, and what it wrote."""
        self._cri.stop(self.id, timeout)
        return self.wait()

    def remove(self) -> None:
        """Removes it, running or not."""
        self._cri.remove(self.id)


def _over(below: _Sections, above: _Sections) -> _Sections:
    """The sections of both, where keys of `above` win."""
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in {**below, **above}}


def _link(place: Path, target: str) -> None:
    """Makes or replaces a symlink, at once."""
    fresh = place.with_name(f".{place.name}")
    fresh.symlink_to(target)
    fresh.replace(place)
