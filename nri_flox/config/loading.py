"""Reading the config: files and drop-in to one `Config`, with errors that name file and key."""

import os
from dataclasses import fields
from typing import Any, cast

from nri_flox.config.kinds import MisfitError, parsed, suggestion
from nri_flox.config.sections import Config

DEFAULT_FILE = "/etc/nri-flox/config.toml"
# What messages call the text that a runtime hands to a plugin it launches itself.
DROP_IN = "the drop-in from the runtime"

SECTIONS: dict[str, type[Any]] = {each.name: cast("type[Any]", each.type) for each in fields(Config)}


class ConfigError(ValueError):
    """The config can't be used; the text names the file and the key, and never shows a secret."""


def load(path: str | None, drop_in: str | None = None) -> Config:
    """The config from the file at `path`; from DEFAULT_FILE, if there is one, when that is None.

    `drop_in` is TOML text that goes before the file, key by key (`policy.rule` is one key). Raises
    ConfigError.
    """
    texts = []
    file = DEFAULT_FILE if path is None else path
    text = _read(file, required=path is not None)
    if text is not None:
        texts.append((file, text))
    if drop_in is not None:
        texts.append((DROP_IN, drop_in))
    merged: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for origin, text in texts:
        for section, values in _parse(origin, text).items():
            merged[section].update(values)
    config = Config(**{name: section(**merged[name]) for name, section in SECTIONS.items()})
    if problem := _contradiction(config):
        raise ConfigError(f"{' and '.join(origin for origin, _ in texts)}: {problem}")
    return config


def _read(path: str, *, required: bool) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{path}: there is no such file") from None
        return None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _parse(origin: str, text: str) -> dict[str, dict[str, Any]]:
    # Half a megabyte that a service without config need not carry.
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: is not valid TOML: {error}") from None
    values = {}
    for name, table in document.items():
        if name not in SECTIONS:
            raise ConfigError(f"{origin}: {name}: there is no such section{suggestion(name, SECTIONS)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {name}: must be a section, written [{name}]")
        try:
            values[name] = dict(parsed(SECTIONS[name], table))
        except MisfitError as error:
            raise ConfigError(f"{origin}: {name}{error.place}: {error.problem}") from None
    return values


def _contradiction(config: Config) -> str | None:
    """What no single key shows to be wrong."""
    environments, nix = config.environments, config.nix
    if environments.gc_until >= environments.gc_above:
        return (
            f"environments.gc_until ({environments.gc_until}) must be below environments.gc_above "
            f"({environments.gc_above}), or collecting would never stop"
        )
    if environments.gc_above + environments.min_free > 1:
        return (
            f"environments.gc_above ({environments.gc_above}) and environments.min_free "
            f"({environments.min_free}) must not add up to more than 1, or pulling would stop before "
            "collecting begins"
        )
    if os.path.commonpath((nix.store_dir, nix.view_dir)) == nix.store_dir:
        return f"nix.view_dir ({nix.view_dir}) must not lie in nix.store_dir ({nix.store_dir})"
    return None
