"""Flows as a table for a person: in colour on a terminal, plain text elsewhere."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from enforcer.flows.report import Decision, Report
from enforcer.telemetry.times import span

COLUMNS = ("VERDICT", "SOURCE", "DESTINATION", "PORT", "COUNT", "SINCE", "LAST", "WHY")
COLOURS = {Decision.DENIED.value: "red", Decision.AUDITED.value: "yellow"}
GAP = "  "


def show(
    reports: Sequence[Report],
    output: TextIO,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Write the table, `SINCE` and `LAST` as ages; one line where there are no flows."""
    if not reports:
        output.write("no flows\n")
        return
    moment = now()
    rows = [_row(report, moment) for report in reports]
    if output.isatty():
        _coloured(rows, output)
    else:
        _plain(rows, output)


def _row(report: Report, now: datetime) -> tuple[str, ...]:
    port = "" if report["port"] is None else f" {report['port']}"
    cells = (
        report["verdict"],
        report["source"],
        report["destination"],
        report["protocol"] + port,
        str(report["count"]),
        _age(report["since"], now),
        _age(report["last"], now),
        _why(report),
    )
    # A server that is not ours could name a pod in a way that moves the cursor.
    return tuple("".join(c if c.isprintable() else "?" for c in cell) for cell in cells)


def _why(report: Report) -> str:
    nearest = report["nearestMiss"]
    if nearest is None:
        return report["reason"]
    rule = "" if nearest["rule"] is None else f", rule {nearest['rule']},"
    return f"{nearest['policy']}{rule} {nearest['miss']}"


def _age(stamp: str, now: datetime) -> str:
    return span((now - datetime.fromisoformat(stamp)).total_seconds())


def _plain(rows: Sequence[tuple[str, ...]], output: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        output.write(GAP.join(cells).rstrip() + "\n")


def _coloured(rows: Sequence[tuple[str, ...]], output: TextIO) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in COLUMNS:
        right = name in ("COUNT", "SINCE", "LAST")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(Text(row[0], style=COLOURS.get(row[0], "")), *map(Text, row[1:]))
    Console(file=output).print(table)
