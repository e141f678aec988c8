"""What every benchmark shares: interleaved rounds, ratios per round, an interval over rounds, bars and verdicts.

Both sides are measured once in every round, in alternating order, so that whatever slows the machine slows both; the
ratio is taken within a round, and the verdict by the interval of its median over rounds.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Scale = Literal["full", "quick", "smoke"]
Verdict = Literal["met", "missed", "reported", "skipped"]
Measure = Callable[[], float]


@dataclass(frozen=True)
class Options:
    """How thorough a run is and where it runs. `smoke` only shows that a benchmark works; its figures mean nothing."""

    scale: Scale = "full"
    rounds: int | None = None
    device: str = "cpu"

    def pick(self, full: T, quick: T, smoke: T) -> T:
        """The one of three settings that belongs to the scale."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.scale]

    def rounds_of(self, full: int, quick: int) -> int:
        """How many rounds to measure: what the command line says, or else what belongs to the scale."""
        return self.rounds or self.pick(full, quick, 2)


@dataclass(frozen=True)
class Interval:
    """The median of a measure over rounds, and an interval that holds the true median with probability `coverage`."""

    median: float
    low: float
    high: float
    rounds: int
    coverage: float


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The order-statistic interval of the median, which assumes nothing about how the values are spread.

    Between the k-th smallest and the k-th largest of n values the median lies with probability
    `1 - 2 P(Binomial(n, 1/2) < k)`. The narrowest such interval that reaches `level` is taken; with fewer than six
    values none does at 0.95, and the whole range is taken with the coverage that it has.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    ordered, n = sorted(values), len(values)
    tail, best = 0.0, 1
    for k in range(1, n // 2 + 1):
        tail += math.comb(n, k - 1) / 2**n
        if 1 - 2 * tail < level:
            break
        best = k
    tail = sum(math.comb(n, i) for i in range(best)) / 2**n
    return Interval(statistics.median(ordered), ordered[best - 1], ordered[n - best], n, max(0.0, 1 - 2 * tail))


def exact(value: float) -> Interval:
    """A value that does not vary: a count, or a ratio of counts."""
    return Interval(value, value, value, 1, 1.0)


@dataclass(frozen=True)
class Bar:
    """The range that a row must lie in; None leaves a side open."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: Interval) -> bool:
        """Whether the whole interval lies within the bar."""
        return (self.low is None or value.low >= self.low) and (self.high is None or value.high <= self.high)

    def __str__(self) -> str:
        if self.low is None:
            return f"<= {self.high:g}"
        if self.high is None:
            return f">= {self.low:g}"
        return f"= {self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


def at_most(value: float) -> Bar:
    return Bar(high=value)


def at_least(value: float) -> Bar:
    return Bar(low=value)


def within(low: float, high: float) -> Bar:
    return Bar(low, high)


def exactly(value: float) -> Bar:
    return Bar(value, value)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        value: over rounds; None where the row was not measured, and `note` says why.
        bar: what it must reach; None only reports it.
        unit: of `value`: `x` is a ratio of ours to the other side.
        ours, peer: the medians behind a ratio, in `sides` units.
        peer_name: what the other side is.
        counts: what does not flake, beside each time.
    """

    name: str
    value: Interval | None
    bar: Bar | None = None
    unit: str = "x"
    ours: float | None = None
    peer: float | None = None
    sides: str = ""
    peer_name: str = "diffusers"
    counts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """`met` when the interval's bound clears the bar, `missed` when it does not."""
        if self.value is None:
            return "skipped"
        if self.bar is None:
            return "reported"
        return "met" if self.bar.holds(self.value) else "missed"


def skipped(name: str, why: str) -> Row:
    """A row that was not measured."""
    return Row(name, None, note=why)


def count_row(name: str, value: float, bar: Bar | None, *, unit: str = "count", **more: Any) -> Row:
    """A row that counts something."""
    return Row(name, exact(value), bar, unit=unit, **more)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "CPU": time.process_time}


def ratio_row(name: str, times: Mapping[str, Sequence[float]], bar: Bar | None, **more: Any) -> Row:
    """A row that compares the sides `ours` and `peer` round by round."""
    ours, peer = times["ours"], times["peer"]
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return Row(name, interval(ratios), bar, ours=statistics.median(ours), peer=statistics.median(peer), **more)


def interleaved(sides: Mapping[str, Measure], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Measure every side once a round, in alternating order. A side returns its own figure."""
    names = list(sides)
    for _ in range(warmup):
        for name in names:
            sides[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            gc.collect()
            gc.disable()
            try:
                found[name].append(sides[name]())
            finally:
                gc.enable()
    return found


def on_both_clocks(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds on the wall and of this process, as `{"wall": times, "CPU": times}`, of the same interleaved calls."""
    found = {clock: {side: list[float]() for side in sides} for clock in CLOCKS}

    def timed(side: str) -> Measure:
        def measure() -> float:
            starts = [clock() for clock in CLOCKS.values()]
            sides[side]()
            for name, clock, start in zip(CLOCKS, CLOCKS.values(), starts, strict=True):
                found[name][side].append(clock() - start)
            return found["wall"][side][-1]

        return measure

    interleaved({side: timed(side) for side in sides}, rounds, warmup=1)
    return {clock: {side: values[1:] for side, values in times.items()} for clock, times in found.items()}


def cpu_timed(work: Callable[[], Any], repeats: int = 1) -> Measure:
    """CPU seconds of this process for one call: with one thread, what a busy neighbour does not stretch."""
    return _timed(time.process_time, work, repeats)


def wall_timed(work: Callable[[], Any], repeats: int = 1) -> Measure:
    """Seconds on the wall for one call."""
    return _timed(time.perf_counter, work, repeats)


def _timed(clock: Callable[[], float], work: Callable[[], Any], repeats: int) -> Measure:
    def measure() -> float:
        start = clock()
        for _ in range(repeats):
            work()
        return (clock() - start) / repeats

    return measure
