"""`nri-flox check`: is this node ready?"""

import os
import sys
from collections.abc import Iterable

from nri_flox.cli import probes
from nri_flox.cli.findings import Finding, as_json, as_text, fault, faults, ok
from nri_flox.config import DEFAULT_FILE, Config, ConfigError, load


def check(config_path: str | None, containerd_socket: str, *, output: str, ready: bool) -> int:
    """Exit status: 0 when the node is ready, 1 when there is a fault, 2 when the fault is in the config.

    What is wrong with a config is on stderr too, where other commands say it.
    """
    try:
        config = load(config_path)
    except ConfigError as error:
        print(f"nri-flox: {error}", file=sys.stderr)
        found, status = [fault("config", str(error), "see docs/configuration.md")], 2
    else:
        found = [_config(config_path, config)]
        found += probes.everything(config, containerd_socket, os.environ.get("PATH", os.defpath))
        status = 1 if faults(found) else 0
    sys.stdout.write(_rendered(found, output, ready))
    return status


def _config(path: str | None, config: Config) -> Finding:
    where = path or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else f"defaults, there is no {DEFAULT_FILE}")
    return ok("config", f"{where}; environments from {' and '.join(config.environments.source)}")


def _rendered(found: Iterable[Finding], output: str, ready: bool) -> str:
    if output == "json":
        return as_json(found)
    if ready:
        return as_text(faults(found)) or "ready\n"
    return as_text(found, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
