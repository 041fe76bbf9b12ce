"""`nri-flox demo`: the documentation's sample pods on a private node, and what really happened to each container.

What is shown comes from the OCI specs with which runc started the containers, compared with the specs of the same
containers on a node without the plugin; only the name of each decision is the plugin's own word.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nri_flox import __version__
from nri_flox.demo import packages
from nri_flox.demo.containerd import NotStarted, obstacle
from nri_flox.demo.cri import CriError
from nri_flox.demo.node import EMPTY, SHELL, Container, Node, Pod
from nri_flox.demo.render import Executable, Package

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    _Spec = Mapping[str, Any]

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130  # as a shell says it
_DECISION_SECONDS = 2.0


class _Failed(Exception):
    """Everything was up, and yet a container did not do as it should."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """A container of a sample pod."""

    name: str
    command: Sequence[str]
    image: str = EMPTY


@dataclass(frozen=True, slots=True)
class _SamplePod:
    name: str
    annotations: Mapping[str, str]
    containers: Sequence[_Sample]


_SAMPLES = (
    _SamplePod(
        "flox-containerd-demo",
        {"flox.dev/environment": "limeytexan/echoip"},
        (_Sample("empty", ["echoip"]),),
    ),
    _SamplePod(
        "quotes-app",
        {"flox.dev/environment": "flox/quotes-app", "flox.dev/skip-containers": "vault-agent,vault-agent-init"},
        (
            _Sample("vault-agent", ["/bin/sh", "-c", 'echo "FLOX_ENV is ${FLOX_ENV-unset}, and / holds" /*'], SHELL),
            _Sample("quotes-app", ["quotes-app-go"]),
        ),
    ),
)

# Programs as an environment brings them: their interpreter and all that they use is in the store.
_ECHOIP = """\
#!{busybox}/bin/sh
echo "$ECHOIP_GREETING from $0, process $$, user $(id -u)"
set -- /nix/store/*
echo "/nix/store holds $# paths, / holds" /*
"""
_QUOTES = """\
#!{busybox}/bin/sh
echo "$QUOTE"
"""


def main(runtime: str | None, keep: bool) -> int:
    """Runs the demo on containerd `runtime` ("1.7", "2.3"; None: what is at hand) and gives the exit status.

    Everything lies below one temporary directory and is gone at the end, also after Ctrl-C or SIGTERM. With `keep`,
    the node stays up until one of these.
    """
    if why_not := obstacle():
        return _fail(why_not)
    before = {ending: signal.signal(ending, _interrupt) for ending in _ENDINGS}
    directory = Path(tempfile.mkdtemp(prefix="nri-flox-demo-"))
    try:
        _demonstrate(directory, runtime, keep)
    except KeyboardInterrupt:
        print("\ninterrupted")
        return _INTERRUPTED
    except (packages.Unavailable, NotStarted, CriError, TimeoutError, _Failed) as error:
        return _fail(str(error))
    finally:
        shutil.rmtree(directory)
        for ending, handler in before.items():
            signal.signal(ending, handler)
    return 0


def _demonstrate(directory: Path, runtime: str | None, keep: bool) -> None:
    print(f"A node of its own, below {directory}")
    with _told("containerd, runc and busybox"):
        node = Node(directory, runtime, plugin=False)
    with ExitStack() as running:
        with _told("containerd started, images imported"):
            running.enter_context(node)
        # Said first when this ends: half a clean-up is none.
        running.callback(_ignore_endings)
        with _told("environments rendered into a store"):
            _provide_environments(node)
        with _told("the samples created once without the plugin, to compare with"):
            plain = _plain_specs(node)
        with _told("nri-flox started and connected"):
            node.start_plugin()
        version = node.cri.version()
        print(f"nri-flox {__version__} on {version.runtime_name} {version.runtime_version}")
        for sample in _SAMPLES:
            _run(node, sample, plain)
        if keep:
            print(f"\nThe node stays up until Ctrl-C; CRI is at {node.containerd.socket}")
            signal.pause()


def _provide_environments(node: Node) -> None:
    busybox = node.busybox()
    echoip = Package("echoip", {"bin/echoip": Executable(_ECHOIP.format(busybox=busybox))})
    quotes = Package("quotes-app-go", {"bin/quotes-app-go": Executable(_QUOTES.format(busybox=busybox))})
    node.provide("limeytexan/echoip:3", packages=[echoip, busybox], vars={"ECHOIP_GREETING": "Hello"})
    quote = "Simplicity is prerequisite for reliability."
    node.provide("flox/quotes-app:1", packages=[quotes], closure=[busybox], vars={"QUOTE": quote})


def _plain_specs(node: Node) -> Mapping[str, _Spec]:
    """The OCI specs of all sample containers as they are without any plugin, by container name."""
    pod = node.pod()
    specs = {sample.name: _create(pod, sample).spec for samples in _SAMPLES for sample in samples.containers}
    node.remove_pods()
    return specs


def _run(node: Node, sample: _SamplePod, plain: Mapping[str, _Spec]) -> None:
    """Runs a sample pod and shows each container's fate; raises `_Failed` when one did not run."""
    clock = _Clock()
    with clock.step("sandbox"):
        pod = node.pod(name=sample.name, annotations=sample.annotations, handler="flox")
    print(f"\npod {sample.name} ({clock})")
    for name, value in sample.annotations.items():
        print(f"  {name}: {value}")
    for wanted in sample.containers:
        clock = _Clock()
        with clock.step("create"):
            container = _create(pod, wanted)
        with clock.step("start"):
            container.start()
        with clock.step("exit"):
            ended = container.wait()
        print(f"\n  container {wanted.name}, image {wanted.image}: {shlex.join(wanted.command)}")
        _show("decision", [_decision(node, sample.name, wanted.name)])
        _show("mounted", _mounted(container.spec, plain[wanted.name]))
        _show("set", _set(container.spec, plain[wanted.name]))
        _show("printed", (ended.stdout + ended.stderr).splitlines())
        _show("took", [f"{clock} with status {ended.exit_code}"])
        if ended.exit_code != 0:
            raise _Failed(f"container {wanted.name} of pod {sample.name} ended with status {ended.exit_code}")


def _create(pod: Pod, sample: _Sample) -> Container:
    return pod.container(sample.command, sample.name, image=sample.image)


def _decision(node: Node, pod: str, container: str) -> str:
    """What the plugin says of the container in its log, which it writes after its answer."""
    deadline = time.monotonic() + _DECISION_SECONDS
    while time.monotonic() < deadline:
        for entry in node.plugin.log():
            if (entry.get("event"), entry.get("pod"), entry.get("container")) == ("container", pod, container):
                details = [entry[key] for key in ("environment", "store_path", "reason") if key in entry]
                return ", ".join([entry["decision"], *details])
        time.sleep(0.01)
    raise _Failed(f"the plugin has not logged a decision on container {container} of pod {pod}")


def _mounted(spec: _Spec, plain: _Spec) -> list[str]:
    before = {mount["destination"] for mount in plain["mounts"]}
    return [
        f"{mount['destination']} from {mount['source']} ({','.join(mount['options'])})"
        for mount in spec["mounts"]
        if mount["destination"] not in before
    ]


def _set(spec: _Spec, plain: _Spec) -> list[str]:
    before = {*plain["process"]["env"]}
    variables = [entry for entry in spec["process"]["env"] if entry not in before]
    annotations = [f"{name}: {value}" for name, value in spec["annotations"].items() if name.startswith("flox.dev/")]
    environment = spec["annotations"].get("flox.dev/store-path", "")
    # A store path takes most of a line, and most variables hold this one.
    shortened = [
        entry.replace(environment, "$FLOX_ENV") if environment and not entry.startswith("FLOX_ENV=") else entry
        for entry in variables
    ]
    return sorted(shortened) + sorted(annotations)


def _show(title: str, lines: Sequence[str]) -> None:
    for first, line in zip([title, *[""] * len(lines)], lines or ["nothing"], strict=False):
        print(f"    {first:<10}{line}")


@dataclass(slots=True)
class _Clock:
    """Milliseconds by step, in the order in which the steps were first taken."""

    taken: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.taken[name] = (time.monotonic() - began) * 1000

    def __str__(self) -> str:
        return ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in self.taken.items())


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Prints one line for a step of the preparations, with its seconds once it is done."""
    print(f"  {what:<64}", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print()
        raise
    print(f"{time.monotonic() - began:6.2f} s")


def _interrupt(*_: object) -> None:
    # Only the first one counts: the clean-up that it causes is not to be interrupted.
    _ignore_endings()
    raise KeyboardInterrupt


def _ignore_endings() -> None:
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)


def _fail(text: str) -> int:
    print(f"nri-flox demo: {text}", file=sys.stderr)
    return 1
