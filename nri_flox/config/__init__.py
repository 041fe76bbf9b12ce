"""What an administrator may set, and how it is read: TOML in, one immutable `Config` or a `ConfigError` out.

Each key is described once, in `sections`: its kind, its default as one would write it, and what it means.
From that come the parser, `config.toml.example` and the tables of `docs/configuration.md` (`make docs`).
Nothing in here looks at the node: whether a path exists or a program runs is for `nri-flox check` to find.
"""

from nri_flox.config.kinds import Address
from nri_flox.config.loading import DEFAULT_FILE, DROP_IN, ConfigError, load
from nri_flox.config.sections import (
    Activation,
    Config,
    Environments,
    Flox,
    Log,
    LogFormat,
    LogLevel,
    Metrics,
    Nix,
    Nri,
    OnPullError,
    Policy,
    Rule,
    Runtime,
    Source,
    Telemetry,
    Token,
    Verdict,
)

__all__ = [
    "DEFAULT_FILE",
    "DROP_IN",
    "Activation",
    "Address",
    "Config",
    "ConfigError",
    "Environments",
    "Flox",
    "Log",
    "LogFormat",
    "LogLevel",
    "Metrics",
    "Nix",
    "Nri",
    "OnPullError",
    "Policy",
    "Rule",
    "Runtime",
    "Source",
    "Telemetry",
    "Token",
    "Verdict",
    "load",
]
