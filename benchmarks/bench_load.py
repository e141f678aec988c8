"""load: an fp16 checkpoint of 868 million parameters from the page cache: time, and peak memory, also when casting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, at_most, interleaved, interval, ratio_row, skipped
from benchmarks.scratch import LARGE, NEEDED, TINY, free_bytes, large_network, warm


def run(options: Options) -> list[Row]:
    name = "load of 868 M parameters (1.7 GB), fp16 as fp16"
    if options.scale != "smoke" and free_bytes() < NEEDED:
        return [skipped(name, "the scratch folder has less than 3 GB free; see CALOTYPE_BENCH_SCRATCH")]
    folder = large_network(options.pick(LARGE, LARGE, TINY))
    warm(folder)
    return [
        _time(name, folder, options),
        _memory("peak anonymous memory of that load over final size", folder, "float16", options),
        _memory("peak anonymous memory of a load cast to fp32 over final size", folder, "float32", options),
    ]


def _time(name: str, folder: Path, options: Options) -> Row:
    counts: dict[str, Any] = {}

    def side(label: str) -> Callable[[], float]:
        def measure() -> float:
            report = run_module("benchmarks.probes.load", label, folder, "float16", "time")
            counts["parameters"] = report["parameters"]
            counts[f"bytes_by_read_{label}"] = report["read"]
            counts[f"imported_{label}"] = report["imported"]
            counts[f"wall_s_{label}"] = round(report["wall"], 3)
            return float(report["cpu"])

        return measure

    sides = {"ours": side("ours"), "peer": side("peer")}
    times = interleaved(sides, options.rounds_of(full=15, quick=9))
    return ratio_row(name, times, at_most(1.1), sides="s CPU", counts=counts)


def _memory(name: str, folder: Path, dtype: str, options: Options) -> Row:
    def measured(label: str) -> float:
        report = run_module("benchmarks.probes.load", label, folder, dtype, "memory")
        return float(report["peak"] / report["final"])

    ours = [measured("ours") for _ in range(options.rounds_of(full=5, quick=2))]
    peer = measured("peer")
    value = interval(ours)
    return Row(name, value, at_most(1.05), ours=value.median, peer=peer, sides="of final size")
