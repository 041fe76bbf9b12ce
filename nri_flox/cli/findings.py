"""What `check` found, and how that is shown. Finding out is done elsewhere."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: a fault keeps pods from their environments, a warning may."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do about it, empty when nothing is to be done."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, subject, text, remedy)


def fault(subject: str, text: str, remedy: str) -> Finding:
    return Finding(Level.FAULT, subject, text, remedy)


def faults(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is Level.FAULT]


_COLOURS = {Level.OK: "\033[32m", Level.WARNING: "\033[33m", Level.FAULT: "\033[31m"}


def as_text(findings: Iterable[Finding], *, colour: bool = False) -> str:
    """One line a finding."""
    return "".join(_line(finding, colour) for finding in findings)


def _line(finding: Finding, colour: bool) -> str:
    level = f"{finding.level:<7}"
    if colour:
        level = f"{_COLOURS[finding.level]}{level}\033[0m"
    remedy = f": {finding.remedy}" if finding.remedy else ""
    return f"{level}  {finding.subject:<12}  {finding.text}{remedy}\n"


def as_json(findings: Iterable[Finding]) -> str:
    """`{"ready": bool, "findings": [{"level", "subject", "text", "remedy"}]}`."""
    found = list(findings)
    return json.dumps({"ready": not faults(found), "findings": [asdict(each) for each in found]}, indent=2) + "\n"
