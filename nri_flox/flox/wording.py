"""How values from elsewhere stand in our texts: pods, commands and files may put anything into what people read.

Texts end up in pod events, logs and terminals, so what is quoted has no control characters and a bounded length,
and durations go in few steps, because a text that changes makes the kubelet record a new event.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def clean(text: str, limit: int = 400) -> str:
    """`text` on one line without control or direction characters, at most `limit` characters."""
    flat = _CONTROL.sub(" ", text).strip()
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def quote(text: str, limit: int = 100) -> str:
    """At most `limit` characters of `text` in quotes, as it is: a blank or a newline too many is to be seen."""
    shown = escape(text[: limit + 1])
    return f'"{shown}"' if len(text) <= limit else f'"{shown[:limit]}…"'


def escape(text: str) -> str:
    """`text` with what can't be printed, control and direction characters too, as a program's source would have it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def duration(seconds: float) -> str:
    """An upper bound in words: 5, 10, 30, 60 seconds, then whole minutes."""
    for step in (5, 10, 30, 60):
        if seconds < step:
            return f"less than {step} s"
    return f"less than {int(seconds // 60) + 1} minutes"
