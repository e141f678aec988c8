"""guidance: running both branches in one batch, in turn, or as the policy decides, at a small and a large size."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.counting import calls_of
from benchmarks.harness import Measure, Options, Row, at_most, cpu_timed, interleaved, interval, ratio_row
from benchmarks.subjects import embedded, tiny
from calotype import Denoise, TextToImagePipeline

WAYS = {"auto": None, "batched": True, "in_turn": False}


def pipelines(make: Callable[..., Any]) -> dict[str, Any]:
    """The same pipeline, with each way of running the branches."""
    found: dict[str, Any] = {}
    for name, batch in WAYS.items():
        units = tuple(_with(node, batch) if isinstance(node, Denoise) else node for node in TextToImagePipeline.units)
        cls = type(TextToImagePipeline.__name__, (TextToImagePipeline,), {"units": units})
        first = next(iter(found.values()), None)
        found[name] = make(cls) if first is None else cls(**first.components)
    return found


def _with(node: Denoise, batch: bool | None) -> Denoise:
    return Denoise(
        node.predict, guidance=node.guidance, after_step=node.after_step, batch_branches=batch, cache=node.cache
    )


def run(options: Options) -> list[Row]:
    pipes = pipelines(options.pick(embedded, embedded, tiny))
    sizes = options.pick((64, 128, 256, 384), (64, 256), (64,))
    return [_row(pipes, size, options) for size in sizes]


def _row(pipes: dict[str, Any], size: int, options: Options) -> Row:
    steps = options.pick(24, 24, 1) if size <= 128 else 1
    counts: dict[str, Any] = {}
    sides: dict[str, Measure] = {}
    for name, pipe in pipes.items():
        sides[name] = cpu_timed(_call(pipe, size, steps))
        with calls_of(transformer=pipe.transformer) as calls:
            sides[name]()
        counts[f"forwards_per_step_{name}"] = calls["transformer"] / steps
    times = interleaved(sides, options.rounds_of(full=21, quick=15))
    better = min(("batched", "in_turn"), key=lambda name: statistics.median(times[name]))
    counts["better"] = better
    apart = interval([b / a for a, b in zip(times["in_turn"], times["batched"], strict=True)])
    counts["batched_over_in_turn"] = round(apart.median, 3)
    pair = {"ours": [1e3 * t / steps for t in times["auto"]], "peer": [1e3 * t / steps for t in times[better]]}
    name = f"guidance policy over the better way, {size} pixels"
    return ratio_row(name, pair, at_most(1.06), sides="ms CPU per step", peer_name="the better way", counts=counts)


def _call(pipe: Any, size: int, steps: int) -> Callable[[], Any]:
    return lambda: pipe(
        prompt="a red apple", negative_prompt="a blue house", seed=0, steps=steps, height=size, width=size,
        outputs=("latents",),
    )  # fmt: skip
