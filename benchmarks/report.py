"""What was measured, for people as Markdown and for programs as JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from .figures import Row

BEGIN, END = "<!-- figures: made by benchmarks/run --write -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that compare the same two candidates."""

    title: str
    note: str
    ours: str
    other: str
    comparison: str  # what the result column says
    spread: str  # and the one beside it
    rows: Sequence[Row]


def machine() -> str:
    """One line on what the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    go = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} x {model}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {go}; load before the run {load:.1f}"
    )


def markdown(where: str, tables: Sequence[Table]) -> str:
    """The tables, with the line that says where they come from."""
    return "\n\n".join([where + ".", *(_table(table) for table in tables)]) + "\n"


def _table(table: Table) -> str:
    lines = [
        f"**{table.title}** {table.note}",
        "",
        f"| | {table.ours} | {table.other} | {table.comparison} | {table.spread} | target | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [_line(row) for row in table.rows]
    return "\n".join(lines)


def _line(row: Row) -> str:
    other = f"{_number(median(row.other))} {row.unit}" if row.other else ""
    target = "" if row.at_most is None else f"at most {row.at_most:g}"
    verdict = {None: "", True: "met", False: "**missed**"}[row.met]
    spread = "{:.2f} to {:.2f}".format(*row.spread)
    ours = f"{_number(median(row.ours))} {row.unit}"
    return f"| {row.measure} | {ours} | {other} | {row.result:.2f} | {spread} | {target} | {verdict} |"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def as_json(where: str, tables: Sequence[Table]) -> str:
    """Every round of every row."""
    return json.dumps(
        {
            "where": where,
            "tables": [
                {
                    "title": table.title,
                    "rows": [
                        {
                            "measure": row.measure,
                            "unit": row.unit,
                            table.ours: row.ours,
                            table.other: row.other,
                            table.comparison: row.result,
                            "target": row.at_most,
                            "met": row.met,
                        }
                        for row in table.rows
                    ],
                }
                for table in tables
            ],
        },
        indent=1,
    )


def insert(document: Path, text: str) -> None:
    """Replace what stands between BEGIN and END in a document."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
