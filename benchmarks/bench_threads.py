"""threads: eight calls in eight threads on one pipeline, over the same eight in turn."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.harness import Options, Row, at_most, count_row, exactly, interleaved, ratio_row, wall_timed
from benchmarks.peer import diffusers
from benchmarks.scratch import TINY
from benchmarks.subjects import embedded, pixels, tiny

CALLS = 8


def run(options: Options) -> list[Row]:
    pipe = options.pick(embedded, embedded, tiny)(memo=0)
    steps = options.pick(12, 12, 1)

    def ours(seed: int) -> bytes:
        return pixels(pipe(prompt="a red apple", negative_prompt="a blue house", seed=seed, steps=steps))

    wanted = [ours(seed) for seed in range(CALLS)]
    unequal = sum(a != b for a, b in zip(_together(ours), wanted, strict=True))
    sides = {
        "ours": wall_timed(lambda: _together(ours)),
        "peer": wall_timed(lambda: [ours(seed) for seed in range(CALLS)]),
    }
    times = interleaved(sides, options.rounds_of(full=11, quick=7))
    failed = {"peer_calls_that_fail_or_differ": peer_failures(options.pick(20, 20, 2))}
    return [
        ratio_row(
            "8 calls in 8 threads over 8 in turn", times, at_most(1.1), sides="s wall", peer_name="in turn"
        ),
        count_row("8 calls in 8 threads: pictures that differ", unequal, exactly(0), counts=failed),
    ]  # fmt: skip


def _together(call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(CALLS) as pool:
        return list(pool.map(call, range(CALLS)))


def peer_failures(steps: int) -> int:
    """Of eight calls in eight threads on one pipeline of the peer, how many raise or make another picture."""
    torch.manual_seed(0)
    peers = diffusers()
    unet = peers.UNet2DModel(**TINY).eval()
    pipe = peers.DDIMPipeline(unet=unet, scheduler=peers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def call(seed: int) -> bytes | None:
        try:
            generator = torch.Generator().manual_seed(seed)
            made = pipe(generator=generator, num_inference_steps=steps + seed, output_type="np").images
        except Exception:
            return None
        return bytes(made.tobytes())

    wanted = [call(seed) for seed in range(CALLS)]
    return sum(a is None or a != b for a, b in zip(_together(call), wanted, strict=True))
