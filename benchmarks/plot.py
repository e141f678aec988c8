"""`python -m benchmarks.plot RESULTS.json PLOT.svg [PAGE.md]`: the results as a picture, and as a table in a page."""

import json
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.table import number

COLOURS = {"met": "#2b7a4b", "missed": "#b3402a", "reported": "#5a6472", "skipped": "#b5bac2"}
WIDTH, LEFT, RIGHT, ROW = 980, 430, 150, 26
WIDEST = 1.5
"""Ratios beyond this are drawn to the edge."""
START, END = "<!-- table: start, made by benchmarks/plot.py -->", "<!-- table: end -->"

Result = dict[str, Any]


def rows_of(report: Result) -> list[Result]:
    return [row for part in report["results"].values() for row in part["rows"]]


def drawn(report: Result) -> str:
    """The rows that are ratios, as an SVG: a bar to the median, a whisker over the interval, a tick at the bar to
    reach."""
    rows = [row for row in rows_of(report) if row["value"] is not None and row["unit"] == "x"]
    height = 64 + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12.5">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_axis(height),
        *(piece for index, row in enumerate(rows) for piece in _row(row, 44 + ROW * index)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _at(value: float) -> float:
    return LEFT + min(max(value, 0.0), WIDEST) / WIDEST * (WIDTH - LEFT - RIGHT)


def _axis(height: int) -> Iterable[str]:
    yield f'<text x="{LEFT}" y="16" fill="#5a6472">ours over the other side: less is better, but for the peak</text>'
    for value in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5):
        stroke = "#3d4450" if value == 1 else "#e3e6ea"
        yield f'<line x1="{_at(value):.1f}" x2="{_at(value):.1f}" y1="38" y2="{height - 12}" stroke="{stroke}"/>'
        yield f'<text x="{_at(value):.1f}" y="33" text-anchor="middle" fill="#5a6472">{value:g}</text>'


def _row(row: Result, top: float) -> Iterable[str]:
    value, colour, middle = row["value"], COLOURS[row["verdict"]], top + ROW / 2
    low, median, high = _at(value["low"]), _at(value["median"]), _at(value["high"])
    yield f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end" fill="#1c2128">{escape(row["name"])}</text>'
    yield (
        f'<rect x="{LEFT}" y="{top + 5}" width="{median - LEFT:.1f}" height="{ROW - 10}" fill="{colour}" '
        'fill-opacity="0.55"/>'
    )
    yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#1c2128" stroke-width="1.5"/>'
    for edge in _edges(row["bar"]):
        yield (
            f'<line x1="{_at(edge):.1f}" x2="{_at(edge):.1f}" y1="{top + 2}" y2="{top + ROW - 2}" stroke="#1c2128" '
            'stroke-width="2.5"/>'
        )
    text = f"{number(value['median'])} {row['verdict']}"
    yield f'<text x="{WIDTH - RIGHT + 12}" y="{middle + 4}" fill="{colour}">{escape(text)}</text>'


def _edges(bar: str | None) -> list[float]:
    """The ends of a bar as `Bar` spells it."""
    return [] if bar is None else [float(word) for word in bar.replace("to", " ").split() if word[0].isdigit()]


def tabled(report: Result) -> str:
    """All rows as a Markdown table."""
    lines = ["| measure | result | bar | verdict | sides | counts |", "|---|---|---|---|---|---|"]
    for row in rows_of(report):
        counts = ", ".join(f"{name} {count}" for name, count in row["counts"].items())
        cells = (row["name"], _value(row), row["bar"] or "", row["verdict"], _sides(row), counts)
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _value(row: Result) -> str:
    value = row["value"]
    if value is None:
        return str(row["note"])
    spread = f" ({number(value['low'])} to {number(value['high'])})" if value["rounds"] > 1 else ""
    return f"{number(value['median'])}{spread}{'' if row['unit'] == 'x' else ' ' + row['unit']}"


def _sides(row: Result) -> str:
    if row["ours"] is None or row["peer"] is None:
        return ""
    return f"{number(row['ours'])} {row['sides']}, {row['peer_name']} {number(row['peer'])}"


def described(report: Result) -> str:
    """What the results were measured on."""
    machine, versions = report["machine"], report["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured on {report['date'][:10]}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:g} GiB, "
        f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}; {named}. "
        "The interval after a median holds the true median with probability 0.95 or more."
    )


def main(results: str, plot: str, page: str | None = None) -> None:
    report = json.loads(Path(results).read_text(encoding="utf-8"))
    Path(plot).write_text(drawn(report), encoding="utf-8")
    if page is not None:
        text = Path(page).read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        _, _, after = rest.partition(END)
        body = f"{described(report)}\n\n{tabled(report)}"
        Path(page).write_text(f"{before}{START}\n{body}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
