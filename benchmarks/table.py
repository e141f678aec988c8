"""The table that a run prints, and its JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Row


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """One line for each row, and one below it with its counts."""
    for row in rows:
        yield f"{row.verdict:<9}{row.name:<66}{value_text(row):<26}{row.bar or ''!s:<13}{sides_text(row)}".rstrip()
        counts = "  ".join(f"{name}={count}" for name, count in row.counts.items())
        if counts:
            yield f"{'':<9}  {counts}"
        if row.value is None:
            yield f"{'':<9}  {row.note}"


def value_text(row: Row) -> str:
    """The median, and where it varies its interval: `0.73 [0.72, 0.75] x`."""
    if row.value is None:
        return ""
    value = row.value
    spread = f" [{number(value.low)}, {number(value.high)}]" if value.rounds > 1 else ""
    return f"{number(value.median)}{spread} {row.unit}"


def sides_text(row: Row) -> str:
    """Both sides in their own units: `1.2 s CPU, diffusers 3.4`."""
    if row.ours is None or row.peer is None:
        return ""
    return f"{number(row.ours)} {row.sides}, {row.peer_name} {number(row.peer)}"


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def as_json(row: Row) -> dict[str, Any]:
    """A row as it stands in the results file."""
    return {**asdict(row), "bar": None if row.bar is None else str(row.bar), "verdict": row.verdict}
