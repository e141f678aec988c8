"""training_cache: how fast one worker and two fill a cache; a run that is killed and gone on with."""

from typing import Any

from benchmarks.bench_training import PROBE, pictures
from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, at_least, count_row, exactly, ratio_row
from benchmarks.scratch import warm
from benchmarks.stable_diffusion import SMALL, TINY, sd_repository

KILLS = "benchmarks.probes.kills"


def run(options: Options) -> list[Row]:
    return [*_filling(options.pick(128, 128, 16), options), *_kills(options.pick(20, 10, 1))]


def _filling(side: int, options: Options) -> list[Row]:
    """The wall time of a whole filling, the start of processes and all that one process does alone with it."""
    folder = sd_repository(options.pick(SMALL, SMALL, TINY))
    count = options.pick(512, 384, 4)
    data = pictures(count, side)
    title = f"filling a cache, {side} pixels, a fifth of SD 1.5's width"
    rates: dict[int, list[float]] = {1: [], 2: []}
    warm(folder)
    for number in range(options.rounds or options.pick(6, 2, 1)):
        for workers in (1, 2)[:: -1 if number % 2 else 1]:
            rates[workers].append(count / run_module(PROBE, f"fill_{workers}", folder, data, 0)["wall"])
    return [
        ratio_row(
            f"{title}: rows a second from the call to its end, two workers over one",
            {"ours": rates[2], "peer": rates[1]}, at_least(1.6),
            sides="rows/s", peer_name="one worker", counts={"rows": count, "threads of each": 1},
        ),
    ]  # fmt: skip


def _kills(wanted: int) -> list[Row]:
    """A run that is killed again and again, beside one that is not."""
    found = run_module(KILLS, wanted)
    title = "training killed and gone on with"
    more: dict[str, Any] = {"counts": {"steps": found["steps"]}}
    return [
        count_row(f"{title}: kills", found["kills"], exactly(wanted), **more),
        count_row(f"{title}: tensors and rows of the log that differ from an uninterrupted run",
                  found["tensors"] + found["rows"], exactly(0), **more),
    ]  # fmt: skip
