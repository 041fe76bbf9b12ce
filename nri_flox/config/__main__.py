"""Writes `config.toml.example` and the tables of `docs/configuration.md` (`make docs`)."""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from nri_flox.config.kinds import toml
from nri_flox.config.loading import DEFAULT_FILE, SECTIONS
from nri_flox.config.sections import Rule


def example() -> str:
    """Every key with its default, commented out."""
    lines = [
        "# nri-flox: every key with its default. To change one, take the # off its line.",
        f"# The service reads {DEFAULT_FILE} and needs none; SIGHUP makes it read the file again.",
    ]
    for name, section in SECTIONS.items():
        lines += ["", "", *_comment(str(section.__doc__)), f"[{name}]"]
        for key in fields(section):
            lines += ["", *_comment(key.metadata["meaning"])]
            lines.append(f"#{key.name} = {toml(key.metadata['default'])}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text.replace("`", ""), 100, break_on_hyphens=False, initial_indent="# ", subsequent_indent="# "
    )


def tables() -> str:
    """Every key as Markdown, a table for each section."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        lines += [f"### `[{name}]`", "", str(section.__doc__), "", *_rows(section), ""]
    lines += ["### `[[policy.rule]]`", "", str(Rule.__doc__), "", *_rows(Rule)]
    return "\n".join(lines) + "\n"


def _rows(section: type[Any]) -> Iterator[str]:
    yield "| key | default | must be | meaning |"
    yield "| --- | --- | --- | --- |"
    for key in fields(section):
        kind, default, meaning = (key.metadata[each] for each in ("kind", "default", "meaning"))
        yield f"| `{key.name}` | `{toml(default)}` | {kind.expected} | {meaning} |"


def main(arguments: list[str]) -> int:
    writers = {"example": example, "tables": tables}
    if len(arguments) != 1 or arguments[0] not in writers:
        print(f"usage: python -m nri_flox.config {'|'.join(writers)}", file=sys.stderr)
        return 2
    print(writers[arguments[0]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
