"""cold_start: a fresh process that imports, loads the 35.75 M-parameter DDPM repository and runs one forward pass."""

import math
from collections.abc import Callable
from typing import Any

from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, at_most, interleaved, ratio_row
from benchmarks.scratch import CIFAR, TINY, ddpm_repository, warm


def run(options: Options) -> list[Row]:
    folder = ddpm_repository(options.pick(CIFAR, CIFAR, TINY))
    warm(folder)
    reports: dict[str, Any] = {}

    def side(label: str) -> Callable[[], float]:
        def measure() -> float:
            reports[label] = run_module(f"benchmarks.probes.cold_start_{label}", folder)
            return float(reports[label]["cpu"])

        return measure

    times = interleaved({"ours": side("ours"), "peer": side("peer")}, options.rounds_of(full=9, quick=6))
    sums = [report["sum"] for report in reports.values()]
    counts = {f"modules_{label}": report["modules"] for label, report in reports.items()}
    counts["same_output"] = math.isclose(*sums, rel_tol=1e-5)
    return [ratio_row("fresh process: import, load, first forward", times, at_most(0.6), sides="s CPU", counts=counts)]
