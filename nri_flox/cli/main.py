"""The command line: what was asked for, and how it ends. Each command is imported only when it runs.

Errors are one line on stderr. Exit status: 0 done, 1 it failed or a check found a fault, 2 wrong usage or config, 130
interrupted.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from nri_flox import __version__

_EPILOG = """\
examples:
  nri-flox check                     is this node ready? what is missing, and what to do about it
  nri-flox run --config my.toml      the service, in the foreground
  nri-flox demo                      see a pod get its environment, without a cluster

A container runtime starts nri-flox itself when it is linked as /opt/nri/plugins/50-flox; it is then given no command.

exit status:
  0  done
  1  it failed, or a check found a fault
  2  wrong usage or config
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"nri-flox: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    try:
        status = _command(given)()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"nri-flox: {_explained(error)}", file=sys.stderr)
        return _status_of(error)
    return status


def _command(given: list[str]) -> Callable[[], int]:
    if not given and "NRI_PLUGIN_SOCKET" in os.environ:
        # The runtime has launched us as one of its plugins.
        return lambda: _run(None, debug=False)
    options = _parser().parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.command
    return lambda: command(options)


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    # Before or after the command; SUPPRESS keeps a command's parser from undoing what stood before it.
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
    )
    config = _Parser(add_help=False, parents=[common])
    config.add_argument("--config", metavar="FILE", help="instead of /etc/nri-flox/config.toml")

    parser = _Parser(
        prog="nri-flox",
        description="Runs Kubernetes pods in their Flox environments.",
        epilog=_EPILOG,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, text: str, parent: _Parser) -> _Parser:
        return commands.add_parser(name, help=text, description=text, parents=[parent], allow_abbrev=False)

    run = add("run", "the service: serve the container runtime until it is told to stop", config)
    run.set_defaults(command=lambda options: _run(options.config, debug="debug" in options))

    check = add("check", "is this node ready? one line a finding, with the remedy", config)
    check.add_argument("--output", choices=("text", "json"), default="text")
    check.add_argument("--ready", action="store_true", help="print only what keeps the node from being ready")
    check.add_argument(
        "--containerd-socket", metavar="PATH", default="/run/containerd/containerd.sock", help="%(default)s"
    )
    check.set_defaults(command=_check)

    demo = add("demo", "a real pod on a private containerd, start to end, on this machine (as root)", common)
    demo.add_argument("--runtime", metavar="VERSION", type=_release, help="the containerd to use, such as 1.7 or 2.1")
    demo.add_argument("--keep", action="store_true", help="leave the node up until Ctrl-C")
    demo.set_defaults(command=_demo)

    version = add("version", "the version of nri-flox", common)
    version.set_defaults(command=_version)
    return parser


def _release(text: str) -> str:
    if not re.fullmatch(r"[0-9]+\.[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be a release of containerd such as 1.7 or 2.1, not {text!r}")
    return text


def _run(config_path: str | None, *, debug: bool) -> int:
    from nri_flox.service.service import run

    return run(config_path, debug)


def _check(options: argparse.Namespace) -> int:
    from nri_flox.cli.check import check

    return check(options.config, options.containerd_socket, output=options.output, ready=options.ready)


def _demo(options: argparse.Namespace) -> int:
    from nri_flox.demo.demo import main as demo

    return demo(options.runtime, options.keep)


def _version(_options: argparse.Namespace) -> int:
    print(f"nri-flox {__version__}")
    return 0


def _explained(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if type(error).__module__.startswith("nri_flox."):
        # Our own errors are written for people.
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; --debug shows where it comes from"


def _status_of(error: Exception) -> int:
    from nri_flox.config import ConfigError

    return 2 if isinstance(error, ConfigError) else 1
