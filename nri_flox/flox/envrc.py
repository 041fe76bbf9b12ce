"""The part of bash that an `envrc` is written in: assignments, and the values that need no shell to be read.

Flox writes a manifest's variables as `export NAME="value"`, and the value is raw: whatever an author put
there, bash interprets. This parser takes literals, quotes, `$NAME`, `${NAME}`, `${NAME:-word}` and
`${NAME:+word}`, exactly as bash reads them, and refuses all else by line and construct, never quoting it,
since values may be secret. It does not evaluate anything, and it does not try to be a shell: what is rare or
subtle is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bash computes, refuses or reacts to these itself; what a container's env says of them does not count.
# fmt: off
_BASH_OWN = frozenset((
    "CHILD_MAX", "COLUMNS", "COMPREPLY", "COPROC", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS", "EUID",
    "EXECIGNORE", "FIGNORE", "FUNCNAME", "FUNCNEST", "GLOBIGNORE", "GLOBSORT", "GROUPS", "HISTCMD",
    "HOSTTYPE", "IFS", "LINENO", "LINES", "MACHTYPE", "MAPFILE", "OLDPWD", "OPTARG", "OPTERR", "OPTIND",
    "OSTYPE", "PIPESTATUS", "POSIXLY_CORRECT", "PPID", "PS1", "PS2", "PS4", "PWD", "RANDOM", "REPLY",
    "SECONDS", "SHELLOPTS", "SHLVL", "SRANDOM", "UID",
))
# fmt: on
# Variables of the activate script, which an envrc would read or break. All others of it begin with `_`.
_ACTIVATE_OWN = frozenset(
    ("FLOX_CMD", "FLOX_ENV_PROJECT", "LONGOPTS", "OPTIONS", "PARSED", "USAGE", "var_key", "var_val")
)
_OWN_PREFIXES = ("_", "BASH", "COMP_", "READLINE_")
# Deeper ones are written by nobody who means well.
_DEEPEST_EXPANSION = 16


@dataclass(frozen=True, slots=True)
class Expansion:
    """`$NAME` or `${NAME}`, or with `operator` `:-` or `:+`, `${NAME:-word}` or `${NAME:+word}`."""

    name: str
    operator: str = ""
    word: Word = ()


# Bash text after quote removal: literals and expansions, to be joined.
Word = tuple[str | Expansion, ...]


class UnsupportedError(Exception):
    """Bash that this parser does not take upon itself; the text names line and construct."""


@dataclass(frozen=True, slots=True)
class Statement:
    """An assignment, or without a word, the export of what was assigned before."""

    name: str
    word: Word | None
    exported: bool


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SKIPPED = re.compile(
    # Blank lines, comments, and the marks that recent versions put around the variables for a traced bash.
    r"(?:[ \t]*(?:#[^\n]*)?|BASH_ENVTRACE_RESET=1|unset BASH_ENVTRACE_RESET)(?:\n|\Z)"
)
_EXPORT = re.compile(r"[ \t]*export[ \t]+")
_BLANK = re.compile(r"[ \t]*")
_NEXT_NAME = re.compile(r"[ \t]+(?=[A-Za-z_])")
_OTHER_ASSIGNMENT = re.compile(r"\+=|\[")
_END = re.compile(r"[ \t]*(?:[ \t]#[^\n]*)?(?:\n|\Z)")
# What stands for itself outside quotes: bash matches no file names in an assignment, nor in an argument of export
# that is one, and splits neither. In the word of an expansion there, blanks stand for themselves too.
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+=*?!^#\[\]-]+")
_PLAIN_BRACED = re.compile(r"[A-Za-z0-9_./:,@%+=*?!^#\[\] \t\n-]+")
_SINGLE_QUOTED = re.compile(r"'([^'\0\ud800-\udfff]*)'")
# Between double quotes, and in the word of an expansion there: what stands for itself, and where a backslash
# is an escape (elsewhere it stands for itself too).
_QUOTED = (re.compile(r'[^"$`\\\0\ud800-\udfff]+'), re.compile(r'\\([$`"\\])'))
_BRACED = (re.compile(r"[^\"'$`\\}\0\ud800-\udfff]+"), re.compile(r'\\([$`"\\}])'))
_NOT_UTF_8 = re.compile(r"[\ud800-\udfff]")
# Before these a dollar sign stands for itself, inside double quotes.
_LONE_DOLLAR = re.compile(r'\$(?=[ \t\n"/.,:;%+=~^&|<>\]])')
_CONSTRUCTS = {
    "`": "a command substitution",
    "$(": "a command substitution",
    "$[": "arithmetic",
    "${": "a parameter expansion of another kind",
    "$'": "a quoted string with escapes",
    '$"': "a translated string",
    "$": "a special parameter",
    "\\": "a backslash outside quotes",
    "~": "a tilde outside quotes",
    "{": "a brace outside quotes",
    "}": "a brace outside quotes",
    "+=": "appending to a variable",
    "[": "an element of an array",
    "(": "a parenthesis outside quotes",
    ";": "a second command on a line",
    "&": "a second command on a line",
    "|": "a second command on a line",
    "<": "a redirection",
    ">": "a redirection",
    "\0": "a NUL",
    "'": "a single quote inside an expansion",
    '"': "a quote",
}
_SOMETHING_ELSE = "something else than a plain assignment"


def parse(text: str) -> Iterator[Statement]:
    """The statements of a script that only assigns and exports. Raises UnsupportedError."""
    script = _Script(text)
    while not script.at_end():
        if script.skip(_SKIPPED):
            continue
        exported = script.skip(_EXPORT) is not None
        script.skip(_BLANK)
        yield script.statement(exported)
        while exported and script.skip(_NEXT_NAME):
            yield script.statement(exported)
        script.end_line()


class _Script:
    """A place in a text."""

    __slots__ = ("at_char", "depth", "line_sets", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at_char = 0
        self.depth = 0
        self.line_sets: set[str] = set()

    def at_end(self) -> bool:
        return self.at_char >= len(self.text)

    def at(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self.text, self.at_char) is not None

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at_char)
        if found:
            self.at_char = found.end()
        return found

    def skip_text(self, text: str) -> bool:
        if self.text.startswith(text, self.at_char):
            self.at_char += len(text)
            return True
        return False

    def unsupported(self, construct: str = "") -> UnsupportedError:
        line = self.text.count("\n", 0, self.at_char) + 1
        if not construct:
            here = self.text[self.at_char : self.at_char + 2]
            construct = _CONSTRUCTS.get(here) or _CONSTRUCTS.get(here[:1]) or _SOMETHING_ELSE
            if _NOT_UTF_8.match(here):
                construct = "text that is not UTF-8"
        return UnsupportedError(f"line {line}: {construct} needs a shell")

    def name(self) -> str:
        """A variable that is an ordinary one to bash and to the activate script."""
        found = self.skip(_IDENTIFIER)
        if not found:
            raise self.unsupported()
        name = found[0]
        if name in _BASH_OWN or name in _ACTIVATE_OWN or name.startswith(_OWN_PREFIXES):
            raise self.unsupported(f"the variable {name}")
        return name

    def statement(self, exported: bool) -> Statement:
        """An assignment, or of an `exported` line, a name."""
        name = self.name()
        if name == "FLOX_ENV":
            raise self.unsupported("another FLOX_ENV")
        if self.skip_text("="):
            word = self.unquoted_word(_PLAIN)
            self.line_sets.add(name)
            return Statement(name, word, exported)
        if not exported:
            raise self.unsupported("" if self.at(_OTHER_ASSIGNMENT) else "a command")
        return Statement(name, None, exported)

    def end_line(self) -> None:
        if not self.skip(_END):
            raise self.unsupported()
        self.line_sets.clear()

    def unquoted_word(self, plain: re.Pattern[str]) -> Word:
        """The value of an assignment, or the word of an expansion outside quotes, up to where it ends."""
        parts: list[str | Expansion] = []
        while True:
            if found := self.skip(plain):
                parts.append(found[0])
            elif found := self.skip(_SINGLE_QUOTED):
                parts.append(found[1])
            elif self.skip_text('"'):
                parts += self.quoted_word('"', *_QUOTED)
            elif self.text.startswith("$", self.at_char):
                parts.append(self.expansion(in_quotes=False))
            else:
                return tuple(parts)

    def quoted_word(self, closing: str, plain: re.Pattern[str], escaped: re.Pattern[str]) -> Word:
        """The inside of double quotes, or of an expansion within them, past its closing character."""
        parts: list[str | Expansion] = []
        start = self.at_char
        while not self.skip_text(closing):
            if found := self.skip(plain):
                parts.append(found[0])
            elif self.skip_text("\\\n"):
                continue
            elif found := self.skip(escaped):
                parts.append(found[1])
            elif self.skip_text("\\"):
                parts.append("\\")
            elif self.skip(_LONE_DOLLAR):
                parts.append("$")
            elif self.text.startswith("$", self.at_char):
                parts.append(self.expansion(in_quotes=True))
            elif self.at_end():
                self.at_char = start
                raise self.unsupported("a quote without end")
            else:
                raise self.unsupported()
        return tuple(parts)

    def read_name(self) -> str:
        """A name in an expansion. Bash expands a whole line of exports before it sets the first of them."""
        name = self.name()
        if name in self.line_sets:
            raise self.unsupported(f"{name}, set and used on one line,")
        return name

    def expansion(self, *, in_quotes: bool) -> Expansion:
        start = self.at_char
        self.at_char += 1
        if self.at(_IDENTIFIER):
            return Expansion(self.read_name())
        if not self.skip_text("{") or not self.at(_IDENTIFIER):
            self.at_char = start
            raise self.unsupported()
        name = self.read_name()
        if self.skip_text("}"):
            return Expansion(name)
        operator = self.text[self.at_char : self.at_char + 2]
        if operator not in (":-", ":+"):
            self.at_char = start
            raise self.unsupported()
        self.at_char += 2
        self.depth += 1
        if self.depth > _DEEPEST_EXPANSION:
            raise self.unsupported("an expansion in an expansion, and so on,")
        if in_quotes:
            word = self.quoted_word("}", *_BRACED)
        else:
            word = self.unquoted_word(_PLAIN_BRACED)
            if self.at_end():
                self.at_char = start
                raise self.unsupported("an expansion without end")
            if not self.skip_text("}"):
                raise self.unsupported()
        self.depth -= 1
        return Expansion(name, operator, word)
