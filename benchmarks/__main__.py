"""The command: measure, print the tables, say with the exit status whether the targets were met."""

import argparse
import compileall
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nri_flox.demo.containerd import NotStarted, obstacle
from nri_flox.demo.packages import Unavailable
from nri_flox.demo.render import Executable, Package, render

from . import node, protocol, report, rig

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"

_ENVIRONMENT = "acme/web"
_CONFIG = """\
[nri]
socket_path = "{directory}/nri.sock"
[environments]
source = "directory"
directory = "{directory}/environments"
state_dir = "{directory}/state"
[nix]
store_dir = "{directory}/store"
state_dir = "{directory}/nix"
view_dir = "{directory}/views"
[token]
kubelet_root = "{directory}/kubelet"
"""


def main() -> int:
    """The exit status: 0 all targets met, 1 one was missed, 2 it could not be measured."""
    options = _options()
    where = report.machine() if shutil.which("go") else ""
    try:
        with tempfile.TemporaryDirectory(prefix="nri-flox-bench-") as scratch:
            directory = Path(scratch)
            binaries = directory / "bin"
            rig.build(binaries)
            # As an installed package is: without bytecode it starts three times slower and takes 3 MB more.
            compileall.compile_dir(DOCUMENT.parents[1] / "nri_flox", quiet=1)
            tables = []
            if "protocol" in options.only:
                tables += _protocol(directory, binaries, options.rounds, options.quick)
            if "node" in options.only:
                if why := obstacle():
                    raise NotStarted(f"{why}; `--only protocol` needs no containerd")
                tables.append(_node(directory, binaries, options.containerd, options.pairs))
    except (rig.RigError, NotStarted, Unavailable) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    text = report.markdown(where, tables)
    print(text)
    if options.json:
        options.json.write_text(report.as_json(where, tables))
    if options.write:
        report.insert(DOCUMENT, text)
    return 1 if any(row.met is False for table in tables for row in table.rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run",
        description="Measures nri-flox: against a Go stub plugin, and through a real containerd (as root).",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests: does it work at all?")
    parser.add_argument("--rounds", type=int, help="fresh processes of each plugin (default 7, quick 2)")
    parser.add_argument("--pairs", type=int, help="containers of each kind on containerd (default 60, quick 4)")
    parser.add_argument("--only", choices=["protocol", "node"], action="append", help="one part instead of both")
    parser.add_argument("--containerd", metavar="RELEASE", help='which one, e.g. "2.1" (default: what is there)')
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round's figures")
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{DOCUMENT.name}")
    options = parser.parse_args()
    options.only = options.only or ["protocol", "node"]
    options.rounds = options.rounds or (2 if options.quick else 7)
    options.pairs = options.pairs or (4 if options.quick else 60)
    return options


def _protocol(directory: Path, binaries: Path, rounds: int, quick: bool) -> list[report.Table]:
    load = protocol.Load(300, 100) if quick else protocol.Load(3000, 1000)
    store_path = _environment(directory)
    socket = directory / "nri.sock"
    log = directory / "plugins.log"
    config = directory / "config.toml"
    service = [sys.executable, "-m", "nri_flox", "run", f"--config={config}"]
    transport = [sys.executable, "-m", "benchmarks.transport_plugin", str(socket), "60"]
    stub = [str(binaries / "plugin"), f"-socket={socket}"]
    with _shown(log), rig.runtime(binaries / "runtime", socket, _ENVIRONMENT, store_path) as runtime:

        def compare(ours: list[str]) -> protocol.Comparison:
            return protocol.compare(runtime, ours, stub, answer=directory / "answer", log=log, rounds=rounds, load=load)

        whole, alone = compare(service), compare(transport)
    return [
        report.Table(
            "The service.",
            f"An adjusted container's answer: {_described(whole.answer)}.",
            "nri-flox",
            "Go stub",
            "ratio",
            "of the rounds",
            protocol.rows(whole),
        ),
        report.Table(
            "The transport alone.",
            f"Constant bytes: {_described(alone.answer)}.",
            "nri-flox's",
            "Go stub",
            "ratio",
            "of the rounds",
            protocol.rows(alone, only_requests=True),
        ),
    ]


def _described(answer: rig.Answer) -> str:
    return f"{answer.mounts} mounts, {answer.env} env entries, {answer.annotations} annotations, {answer.size} bytes"


@contextmanager
def _shown(log: Path) -> Iterator[None]:
    """The end of the plugins' output, should something fail."""
    try:
        yield
    except rig.RigError:
        if log.exists():
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise


def _environment(directory: Path) -> str:
    """A rendered environment and a config that serves it; the environment's store path."""
    owner, name = _ENVIRONMENT.split("/")
    path = render(
        str(directory / "store"),
        owner,
        name,
        vars={"GREETING": "hello", "PORT": "8080", "DATABASE_URL": "postgres://db.shop.svc/checkout"},
        packages=[Package("checkout", {"bin/checkout": Executable("#!/bin/sh\n")})],
        extra_paths=100,
    )
    links = directory / "environments" / owner / name
    links.mkdir(parents=True)
    (links / "live").symlink_to(str(path))
    (directory / "config.toml").write_text(_CONFIG.format(directory=directory))
    return str(path)


def _node(directory: Path, binaries: Path, release: str | None, pairs: int) -> report.Table:
    probe = binaries / "firstinstruction"
    closures = node.environments(directory / "a", release, probe, pairs)
    busy = node.bystander(directory / "b", release, probe, pairs)
    return report.Table(
        "On a real containerd.",
        "From the CRI call CreateContainer to the command's first instruction, with and without.",
        "with",
        "without",
        "more (ms)",
        "half of the pairs",
        node.rows(closures, busy),
    )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    sys.exit(main())
