"""The statistics and verdicts of the benchmarks, and that a benchmark runs."""

import json
import math
from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import NAMES, main
from benchmarks.counting import LiveStorages, calls_of, dispatched
from benchmarks.harness import (
    Bar,
    Interval,
    Options,
    Row,
    at_most,
    count_row,
    exact,
    exactly,
    interleaved,
    interval,
    ratio_row,
    skipped,
    within,
)
from benchmarks.plot import drawn, tabled
from benchmarks.plot import main as plot
from benchmarks.table import as_json, lines, number


def test_few_values_give_their_whole_range() -> None:
    found = interval([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)
    assert found.coverage == pytest.approx(1 - 2 / 8)


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (21, 6)])
def test_the_interval_is_the_tables_order_statistic(n: int, k: int) -> None:
    found = interval([float(x) for x in range(1, n + 1)])
    assert (found.low, found.high) == (k, n + 1 - k)
    assert found.coverage >= 0.95
    assert found.coverage == pytest.approx(1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    draws = torch.randn(2000, 11, generator=torch.Generator().manual_seed(0)).exp().tolist()
    covered = sum(found.low <= 1.0 <= found.high for found in map(interval, draws)) / len(draws)
    assert covered == pytest.approx(interval(draws[0]).coverage, abs=0.02)


def test_one_value_is_certain_of_nothing() -> None:
    assert interval([2.0]) == Interval(2.0, 2.0, 2.0, 1, 0.0)


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one"):
        interval([])


def test_a_bar_is_met_when_the_interval_clears_it() -> None:
    close = Interval(0.9, 0.8, 1.01, 9, 0.95)
    assert Row("a", close, at_most(1.01)).verdict == "met"
    assert Row("a", close, at_most(1.0)).verdict == "missed"
    assert Row("a", close, within(0.85, 1.15)).verdict == "missed"
    assert Row("a", close, Bar(low=0.8)).verdict == "met"
    assert Row("a", close).verdict == "reported"
    assert skipped("a", "why").verdict == "skipped"


def test_counts_meet_bars_exactly() -> None:
    assert count_row("calls", 0, exactly(0)).verdict == "met"
    assert count_row("calls", 1, exactly(0)).verdict == "missed"


def test_ratios_are_taken_within_a_round() -> None:
    row = ratio_row("drift", {"ours": [1.0, 10.0, 100.0], "peer": [2.0, 20.0, 200.0]}, at_most(0.5))
    assert row.value is not None
    assert (row.value.low, row.value.high, row.ours, row.peer) == (0.5, 0.5, 10.0, 20.0)


def test_sides_alternate_and_the_warm_up_is_left_out() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: float(order.append(name) or len(order)) for name in "ab"}
    found = interleaved(sides, rounds=3, warmup=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert found == {"a": [3.0, 6.0, 7.0], "b": [4.0, 5.0, 8.0]}


@pytest.mark.parametrize(
    ("bar", "text"), [(at_most(0.35), "<= 0.35"), (exactly(0), "= 0"), (within(0.85, 1.15), "0.85 to 1.15")]
)
def test_bars_are_spelled(bar: Bar, text: str) -> None:
    assert str(bar) == text


def test_the_scale_picks_the_setting() -> None:
    assert [Options(scale).pick(1, 2, 3) for scale in ("full", "quick", "smoke")] == [1, 2, 3]
    assert Options("quick", rounds=4).rounds_of(full=9, quick=6) == 4


def test_counting_operations_and_calls() -> None:
    layer = torch.nn.Linear(2, 2)
    with calls_of(layer=layer) as calls:
        assert dispatched(lambda: layer(torch.ones(1, 2)) + 1) >= 3
    layer(torch.ones(1, 2))
    assert calls["layer"] == 1


def test_storages_are_counted_once_and_until_they_are_gone() -> None:
    before = torch.zeros(1000)
    with LiveStorages() as storages:
        made = before + 1
        views = [made[:10], made.view(10, 100)]
        assert storages.live == 4000
        other = made + 1
        assert storages.live == 8000
        del made
        assert storages.live == 8000
        del views
        assert storages.live == 4000
        del other
    assert (storages.live, storages.peak) == (0, 8000)


def test_the_list_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(NAMES)
    assert all(len(line.split()) > 3 for line in listed)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lop"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["memo", "guidance", "peak", "growth"])
def test_a_benchmark_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--smoke", "--json", str(tmp_path / "results.json")]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["results"][name]["rows"]
    assert {"versions", "machine", "threads", "date", "command"} <= set(report)
    assert name in capsys.readouterr().out


def test_a_benchmark_that_fails_is_said_and_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.bench_memo.run", lambda _: 1 / 0)
    assert main(["memo", "--smoke"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_results_are_drawn_and_tabled(tmp_path: Path) -> None:
    rows = [
        Row("faster & better", interval([0.4, 0.5, 0.6]), at_most(0.6), ours=1.0, peer=2.0, sides="s", counts={"n": 3}),
        Row("between", exact(1.0), within(0.85, 1.15)),
        count_row("calls", 0, exactly(0)),
        skipped("on a GPU", "no GPU"),
    ]  # fmt: skip
    machine = {"cpu": "a cpu", "cores": 2, "memory_gib": 8.0}
    report = {
        "date": "2026-01-01T00:00", "machine": machine, "versions": {"torch": "2"}, "threads": 1,
        "results": {"all": {"rows": [as_json(row) for row in rows]}},
    }  # fmt: skip
    assert "faster &amp; better" in drawn(report)
    assert "| calls | 0 count | = 0 | met |" in tabled(report)
    assert "no GPU" in "\n".join(lines(rows))
    (tmp_path / "results.json").write_text(json.dumps(report))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: start, made by benchmarks/plot.py -->\nstale\n<!-- table: end -->\nafter\n")
    plot(str(tmp_path / "results.json"), str(tmp_path / "plot.svg"), str(page))
    assert "stale" not in page.read_text()
    assert page.read_text().endswith("<!-- table: end -->\nafter\n")
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(("value", "text"), [(2.0, "2"), (0.7341, "0.734"), (1234.5, "1234"), (0.0, "0")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_measuring_one_again_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("memo", "peak"):
        monkeypatch.setattr(f"benchmarks.bench_{name}.run", lambda _, name=name: [count_row(name, 0, exactly(0))])
        assert main([name, "--json", str(tmp_path / "results.json")]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [part["rows"][0]["name"] for part in results.values()] == ["memo", "peak"]
