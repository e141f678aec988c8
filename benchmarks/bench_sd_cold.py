"""sd_cold: a fresh process from its start to the first picture of a repository of Stable Diffusion 1.5's size."""

from collections.abc import Callable
from typing import Any

from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, at_most, interleaved, ratio_row, skipped
from benchmarks.scratch import free_bytes, warm
from benchmarks.stable_diffusion import FULL, SMALL, TINY, sd_repository

NEEDED = 9 * 10**9
"""Bytes: the files, and as much again while they are written."""


def run(options: Options) -> list[Row]:
    full = options.scale == "full"
    if full and free_bytes() < NEEDED:
        return [skipped("fresh process to first picture, SD 1.5 size", "less than 9 GB of disk are free")]
    folder = sd_repository(options.pick(FULL, SMALL, TINY))
    size = warm(folder)
    reports: dict[str, Any] = {}

    def side(label: str) -> Callable[[], float]:
        def measure() -> float:
            reports[label] = run_module(f"benchmarks.probes.sd_cold_{label}", folder)
            return float(reports[label]["cpu"])

        return measure

    times = interleaved({"ours": side("ours"), "peer": side("peer")}, options.rounds_of(full=7, quick=6))
    counts = {f"modules_{label}": report["modules"] for label, report in reports.items()}
    means = [report["mean"] for report in reports.values()]
    counts |= {"mean_level_differs_by": round(abs(means[0] - means[1]), 3), "megabytes": size // 10**6}
    what = "SD 1.5 size" if full else "small"
    name = f"fresh process to first picture, {what}, one step at 64 pixels"
    return [ratio_row(name, times, at_most(0.75), sides="s CPU", counts=counts)]
