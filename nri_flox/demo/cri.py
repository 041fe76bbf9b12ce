"""A small client of the Container Runtime Interface: what a kubelet says to a runtime, for pods on the host's network.

It remembers nothing but the connection and decides nothing: every call is one request. The one thing that it takes
over from the kubelet is reading container logs, which the runtime writes to files.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from nri_flox.demo import cri_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_Answer = TypeVar("_Answer", bound=Message)

_TIMEOUT = 120.0  # the kubelet's own
_RECONNECT_MS = 50

# Where the users of a pod lie that has a user namespace of its own.
_FIRST_HOST_ID = 1 << 20


class CriError(Exception):
    """The runtime refused or failed; the text is its own."""

    def __init__(self, method: str, text: str) -> None:
        super().__init__(f"{method}: {text}")
        self.method = method
        self.text = text


class CreateFailed(CriError):
    """CreateContainer failed: the kubelet tries again and again, whatever the pod's restart policy."""


class StartFailed(CriError):
    """StartContainer failed: for the kubelet, the container has failed."""


class Mount(NamedTuple):
    """A directory or file of the host in a container."""

    source: Path
    destination: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """What a pod asks for: the names are those of the Kubernetes API, `None` and empty are "not given"."""

    name: str
    image: str
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    working_dir: str = ""
    run_as_user: int | None = None
    run_as_group: int | None = None
    read_only_root: bool = False
    privileged: bool = False
    add_capabilities: Sequence[str] = ()
    drop_capabilities: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that has a sandbox; `id` is the sandbox's, `uid` the one that Kubernetes gives."""

    id: str
    config: pb.PodSandboxConfig

    @property
    def uid(self) -> str:
        return self.config.metadata.uid

    @property
    def log_directory(self) -> Path:
        return Path(self.config.log_directory)


@dataclass(frozen=True, slots=True)
class Output:
    """What a command wrote, and its exit status."""

    exit_code: int
    stdout: str
    stderr: str


class Client:
    """The runtime behind the Unix socket `address`; nothing is connected before the first call.

    Pods get their cgroups below `cgroup_parent`. Every method may raise `CriError`.
    """

    def __init__(self, address: Path, cgroup_parent: str = "") -> None:
        self._cgroup_parent = cgroup_parent
        self._channel = grpc.insecure_channel(
            f"unix://{address}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
                ("grpc.min_reconnect_backoff_ms", _RECONNECT_MS),
                ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
                ("grpc.max_receive_message_length", 16 << 20),
            ],
        )

    def close(self) -> None:
        """Closes the connection for good."""
        self._channel.close()

    def version(self) -> pb.VersionResponse:
        """The runtime's name and version."""
        return self._call(pb.VersionRequest(), pb.VersionResponse)

    def run_pod(
        self,
        name: str,
        log_directory: Path,
        *,
        namespace: str = "default",
        uid: str | None = None,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        handler: str = "",
        shared_pid: bool = False,
        host_users: bool = True,
    ) -> Pod:
        """Starts a sandbox on the host's network; container logs go to `log_directory`, which the runtime makes.

        Without `host_users` it has a user namespace of its own. `handler` is the one that a pod's RuntimeClass names;
        without a `uid` a fresh one is taken.
        """
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, namespace=namespace, uid=uid or str(uuid.uuid4())),
            log_directory=str(log_directory),
            annotations=annotations,
            labels=labels,
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=self._cgroup_parent,
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=_namespaces(shared_pid, host_users)),
            ),
        )
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return Pod(self._call(request, pb.RunPodSandboxResponse).pod_sandbox_id, config)

    def stop_pod(self, pod: Pod) -> None:
        """Kills what still runs in `pod`."""
        self._call(pb.StopPodSandboxRequest(pod_sandbox_id=pod.id), pb.StopPodSandboxResponse)

    def remove_pod(self, pod: Pod) -> None:
        """Removes `pod` with its containers, running or not."""
        self._call(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), pb.RemovePodSandboxResponse)

    def pods(self) -> list[pb.PodSandbox]:
        """All pods, stopped ones included."""
        return list(self._call(pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse).items)

    def create(self, pod: Pod, container: Container, attempt: int = 0) -> str:
        """Creates a container and gives its id; `attempt` counts restarts. Raises `CreateFailed`."""
        security = pb.LinuxContainerSecurityContext(
            namespace_options=pod.config.linux.security_context.namespace_options,
            capabilities=pb.Capability(
                add_capabilities=container.add_capabilities, drop_capabilities=container.drop_capabilities
            ),
            privileged=container.privileged,
            readonly_rootfs=container.read_only_root,
            run_as_user=_optional(container.run_as_user),
            run_as_group=_optional(container.run_as_group),
        )
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=container.name, attempt=attempt),
            image=pb.ImageSpec(image=container.image, user_specified_image=container.image),
            command=container.command,
            args=container.args,
            working_dir=container.working_dir,
            envs=[pb.KeyValue(key=name, value=value) for name, value in container.env.items()],
            mounts=[
                pb.Mount(host_path=str(source), container_path=destination, readonly=read_only)
                for source, destination, read_only in container.mounts
            ],
            annotations=container.annotations,
            log_path=_log_name(container.name, attempt),
            linux=pb.LinuxContainerConfig(security_context=security),
        )
        request = pb.CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
        return self._call(request, pb.CreateContainerResponse).container_id

    def start(self, container: str) -> None:
        """Starts the created container with the id `container`. Raises `StartFailed`."""
        self._call(pb.StartContainerRequest(container_id=container), pb.StartContainerResponse)

    def status(self, container: str) -> pb.ContainerStatus:
        """State, times and exit code."""
        request = pb.ContainerStatusRequest(container_id=container)
        return self._call(request, pb.ContainerStatusResponse).status

    def info(self, container: str) -> dict[str, Any]:
        """What containerd knows beyond the interface: `runtimeSpec` is the OCI spec as NRI plugins left it,
        `pid` the main process on the host."""
        request = pb.ContainerStatusRequest(container_id=container, verbose=True)
        found: dict[str, Any] = json.loads(self._call(request, pb.ContainerStatusResponse).info["info"])
        return found

    def wait(self, container: str, timeout: float = 30.0) -> pb.ContainerStatus:
        """Waits until the container has ended; its logs are complete then. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while (status := self.status(container)).state != pb.CONTAINER_EXITED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"container {status.metadata.name} still runs after {timeout} s")
            time.sleep(0.005)
        return status

    def exec(self, container: str, command: Sequence[str], timeout: int = 30) -> Output:
        """Runs `command` in the running container, as `kubectl exec` does."""
        request = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        said = self._call(request, pb.ExecSyncResponse)
        stdout, stderr = said.stdout.decode(errors="replace"), said.stderr.decode(errors="replace")
        return Output(said.exit_code, stdout, stderr)

    def stop(self, container: str, timeout: int = 10) -> None:
        """The stop signal, and SIGKILL after `timeout` seconds."""
        request = pb.StopContainerRequest(container_id=container, timeout=timeout)
        self._call(request, pb.StopContainerResponse)

    def remove(self, container: str) -> None:
        """Removes the container, running or not."""
        self._call(pb.RemoveContainerRequest(container_id=container), pb.RemoveContainerResponse)

    def containers(self, pod: Pod | None = None) -> list[pb.Container]:
        """All containers, ended ones included; or those of `pod`."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod.id if pod else ""))
        return list(self._call(request, pb.ListContainersResponse).containers)

    def images(self) -> set[str]:
        """Every name of every image, by tag and by digest."""
        found = self._call(pb.ListImagesRequest(), pb.ListImagesResponse, service="ImageService").images
        return {name for image in found for name in (*image.repo_tags, *image.repo_digests)}

    def _call(self, request: Message, answer: type[_Answer], *, service: str = "RuntimeService") -> _Answer:
        # Every request of the interface is named after its method.
        method = type(request).__name__.removesuffix("Request")
        call: grpc.UnaryUnaryMultiCallable[Message, _Answer] = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise _ERRORS.get(method, CriError)(method, error.details() or str(error.code())) from None


_ERRORS = {"CreateContainer": CreateFailed, "StartContainer": StartFailed}


def output(pod: Pod, status: pb.ContainerStatus) -> Output:
    """What the container with `status` has written so far, read from the log that the runtime keeps of it."""
    streams = {"stdout": "", "stderr": ""}
    log = pod.log_directory / _log_name(status.metadata.name, status.metadata.attempt)
    for line in log.read_text(errors="replace").split("\n")[:-1]:
        # The kubelet's format: time, stream, F for a whole line or P for a part of a long one, text.
        _, stream, form, text = line.split(" ", 3)
        streams[stream] += text if form == "P" else f"{text}\n"
    return Output(status.exit_code, **streams)


def _optional(value: int | None) -> pb.Int64Value | None:
    return None if value is None else pb.Int64Value(value=value)


def _log_name(container: str, attempt: int) -> str:
    return f"{container}.{attempt}.log"


def _namespaces(shared_pid: bool, host_users: bool) -> pb.NamespaceOption:
    options = pb.NamespaceOption(network=pb.NODE, pid=pb.POD if shared_pid else pb.CONTAINER, ipc=pb.POD)
    if not host_users:
        mapping = pb.IDMapping(host_id=_FIRST_HOST_ID, container_id=0, length=65536)
        options.userns_options.CopyFrom(pb.UserNamespace(mode=pb.POD, uids=[mapping], gids=[mapping]))
    return options
