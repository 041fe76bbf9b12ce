"""Kinds of values: how one is written in TOML and what it becomes. Knows no key of the config."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar, cast

T = TypeVar("T")
Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of value. `parse` raises ValueError when the written value is not of this kind.

    It raises MisfitError instead where it can tell which part of the value is wrong.
    """

    expected: str
    parse: Callable[[object], T]
    # What may hold a secret is not repeated in an error.
    shown: bool = True


class MisfitError(Exception):
    """A value doesn't fit. `place` is where it stands below what was parsed, as in `.rule[2].allow`."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem


class Address(NamedTuple):
    """Where a server listens; an IPv6 host is without brackets."""

    host: str
    port: int


def key(kind: Kind[T], default: object, meaning: str, *, quiet: bool = False) -> T:
    """A key of a section: `default` as it would be written in TOML, `meaning` for people.

    The value of a `quiet` key is left out when the section is printed.
    """
    metadata = {"kind": kind, "default": default, "meaning": meaning}
    return field(default=kind.parse(default), metadata=metadata, repr=not quiet)


def parsed(section: type[Any], table: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """The values of a table, for the constructor of its section. Raises MisfitError."""
    known = {each.name: each for each in fields(section)}
    for name, value in table.items():
        if name not in known:
            raise MisfitError(f".{name}", f"there is no such key{suggestion(name, known)}")
        kind: Kind[Any] = known[name].metadata["kind"]
        try:
            yield name, kind.parse(value)
        except MisfitError as error:
            raise MisfitError(f".{name}{error.place}", error.problem) from None
        except ValueError:
            found = f", not {_brief(value)}" if kind.shown else ""
            raise MisfitError(f".{name}", f"must be {kind.expected}{found}") from None


def suggestion(name: str, known: Mapping[str, object]) -> str:
    """The end of a message about a `name` that is not `known`."""
    # Only for somebody who mistyped.
    from difflib import get_close_matches

    if close := get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}"


def toml(value: object) -> str:
    """A default, or a value out of a TOML file, as it would be written there."""
    match value:
        case str():
            return '"' + "".join(map(_escaped, value)) + '"'
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{name} = {toml(each)}' for name, each in value.items())}}}"
        case _:
            return str(value)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else f"\\u{ord(char):04x}"


def _brief(value: object) -> str:
    written = toml(value)
    return written if len(written) <= 80 else written[:77] + "..."


_LONGEST_SOCKET_PATH = 107  # bytes; in unix(7), sun_path has 108 with the NUL at its end

# Parsers. Each takes a value as `tomllib` gives it.


def _unfit() -> NoReturn:
    raise ValueError


def _text(value: object) -> str:
    return value if isinstance(value, str) and "\0" not in value else _unfit()


def _matching(pattern: str) -> Callable[[object], str]:
    compiled = re.compile(pattern)
    return lambda value: text if compiled.fullmatch(text := _text(value)) else _unfit()


def _listing(parse: Callable[[object], T], *, least: int = 0) -> Callable[[object], tuple[T, ...]]:
    def parse_all(value: object) -> tuple[T, ...]:
        return tuple(map(parse, value)) if isinstance(value, list) and len(value) >= least else _unfit()

    return parse_all


def _switch(value: object) -> bool:
    return value if isinstance(value, bool) else _unfit()


def _count(value: object) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return cast("int", value) if whole and 0 < cast("int", value) <= 1000 else _unfit()


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return float(value) if 0 <= value <= 1 else _unfit()


def _path(value: object) -> str:
    text = _text(value)
    # normpath keeps two slashes at the front.
    return "/" + os.path.normpath(text).lstrip("/") if text.startswith("/") else _unfit()


def _socket_path(value: object) -> str:
    path = _path(value)
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else _unfit()


def _optional_path(value: object) -> str | None:
    return None if value == "" else _path(value)


def _executable(value: object) -> str:
    text = _text(value)
    return text if text and ("/" not in text or text.startswith("/")) else _unfit()


def _measure(units: Mapping[str, float]) -> Callable[[object], float]:
    one = rf"([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)({'|'.join(units)})"
    whole, part = re.compile(f"(?:{one})+"), re.compile(one)

    def parse(value: object) -> float:
        text = _text(value)
        if not whole.fullmatch(text):
            raise ValueError
        return sum(float(number) * units[unit] for number, unit in part.findall(text))

    return parse


_duration = _measure({"ms": 0.001, "s": 1, "m": 60, "h": 3600})
_bytes = _measure({"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40})


def _some_duration(value: object) -> float:
    return _duration(value) or _unfit()


def _size(value: object) -> int:
    return int(_bytes(value)) or _unfit()


def _address(value: object) -> Address | None:
    text = _text(value)
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError
    return Address(match[1] or match[2], int(match[3]))


NAME = Kind("letters, digits, '.', '_' and '-'", _matching("[A-Za-z0-9][A-Za-z0-9._-]*"))
TWO_DIGITS = Kind('two digits in quotes, such as "50"', _matching("[0-9]{2}"))
PATTERN = _matching(r"[^\s,]+")
PATTERNS = Kind("a list of names", _listing(PATTERN))
SOME_PATTERNS = Kind("a list of at least one name", _listing(PATTERN, least=1))
USER = Kind('the name of a user, or ""', _matching("([A-Za-z_][A-Za-z0-9._-]*)?"))
SECRET = Kind("a string", _text, shown=False)
SWITCH = Kind("true or false", _switch)
COUNT = Kind("a whole number from 1 to 1000", _count)
SHARE = Kind("a number from 0 to 1", _share)
PATH = Kind("an absolute path", _path)
SOCKET_PATH = Kind(f"an absolute path of at most {_LONGEST_SOCKET_PATH} bytes", _socket_path)
OPTIONAL_PATH = Kind('an absolute path, or ""', _optional_path)
FILE_NAME = Kind("the name of a file, without a directory", _matching(r"(?!\.\.?$)[^/]+"))
EXECUTABLE = Kind("the name of a program, or its absolute path", _executable)
DURATION = Kind('a duration such as "250ms", "2s", "10m" or "72h"', _duration)
SOME_DURATION = Kind('a duration above zero, such as "250ms", "2s", "10m" or "72h"', _some_duration)
SIZE = Kind('a size such as "512MiB" or "20GiB"', _size)
ADDRESS = Kind('an address such as "127.0.0.1:9777", or ""', _address)


def listing(expected: str, parse: Callable[[str], T]) -> Kind[tuple[T, ...]]:
    """A list of texts, each of which `parse` takes or refuses with a ValueError."""
    return Kind(expected, _listing(lambda value: parse(_text(value))))


def choice(choices: type[Choice]) -> Kind[Choice]:
    """One of the values of an enum."""
    expected = " or ".join(f'"{each}"' for each in choices)
    return Kind(expected, lambda value: choices(_text(value)))


def choice_list(choices: type[Choice]) -> Kind[tuple[Choice, ...]]:
    """One value of an enum, or a list of different ones."""

    def parse(value: object) -> tuple[Choice, ...]:
        texts = value if isinstance(value, list) else [value]
        found = tuple(choices(_text(text)) for text in texts)
        return found if found and len(set(found)) == len(found) else _unfit()

    return Kind(choice(choices).expected + ", or a list of them", parse)


def tables(expected: str, section: type[T]) -> Kind[tuple[T, ...]]:
    """A list of tables, each with the keys of `section`."""

    def parse_one(number: int, table: object) -> T:
        if not isinstance(table, dict):
            raise ValueError
        try:
            return section(**dict(parsed(section, table)))
        except MisfitError as error:
            raise MisfitError(f"[{number}]{error.place}", error.problem) from None

    def parse(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError
        return tuple(parse_one(number, table) for number, table in enumerate(value, start=1))

    return Kind(expected, parse)
