"""Lines of code, counted whoever formatted them."""

import re
from pathlib import Path

from benchmarks.bench_community import OURS, PEERS, code_lines, run
from benchmarks.harness import Options

SPREAD = '''
"""Says what it is."""

def f(
    a,
    b,
):
    """And what it does."""
    # why
    return g(
        a,
        b,
    )
'''


def test_how_code_is_laid_out_does_not_count() -> None:
    assert code_lines(SPREAD) == code_lines("def f(a, b):\n    return g(a, b)\n") == 2
    assert code_lines("x = (" + "1234567 + " * 30 + "0)") == 3


def test_every_shipped_file_of_a_known_peer_has_a_row() -> None:
    rows = run(Options("smoke", None, "cpu"))
    assert len(rows) == len(PEERS) + 1 and all(row.value is not None and row.bar is None for row in rows)
    assert rows[-1].counts["ours"] == sum(row.counts["ours"] for row in rows[:-1])
    assert all((OURS / f"{name}.py").exists() for name in PEERS)


def test_the_page_shows_what_is_counted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "community.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `?(\w+)`? \| (\d+) \| (\d+) \| ([\d.]+) \|$", page, re.MULTILINE)
    rows = run(Options("smoke", None, "cpu"))
    counts = [(row.name.rpartition(" ")[2], row.counts["ours"], row.counts["peer"]) for row in rows]
    assert shown == [(name, str(ours), str(peer), f"{ours / peer:.2f}") for name, ours, peer in counts]
