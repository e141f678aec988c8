"""loop: what the framework adds to one denoising step, with guidance and a network that does nothing.

The time of a call with few steps is taken from that of one with many, so that what a call costs once drops out. Calls
repeat the same number of steps: ours remembers the noise levels, as it does for any user, and the peer makes them
again. The floor is a loop written by hand: concatenate, call, combine, one weighted sum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import peer
from benchmarks.counting import dispatched
from benchmarks.harness import Measure, Options, Row, at_most, cpu_timed, interleaved, interval, ratio_row
from benchmarks.subjects import StubNetwork, StubPipeline, stub
from calotype import DDIMScheduler, FlowMatchEuler, Scheduler

REPEATS = 8
"""Calls of a round, so that one takes tens of milliseconds."""


def schedulers() -> dict[str, tuple[Callable[[], peer.PeerLoop], Scheduler]]:
    """For each kind of loop, the peer's pipeline and our scheduler of the same settings."""
    return {
        "epsilon, DDIM": (peer.epsilon_ddim, DDIMScheduler(**peer.DDIM)),
        "flow, Euler": (peer.flow_euler, FlowMatchEuler()),
    }


@torch.no_grad()
def run(options: Options) -> list[Row]:
    return [_row(name, make(), scheduler, options) for name, (make, scheduler) in schedulers().items()]


def _row(name: str, theirs: peer.PeerLoop, scheduler: Scheduler, options: Options) -> Row:
    few, many = options.pick((20, 220), (20, 220), (2, 6))
    pipe = stub(scheduler, theirs.latents, theirs.embeds)
    calls: dict[str, Callable[[int], Any]] = {
        "ours": partial(_draw, pipe),
        "peer": theirs.call,
        "hand": _by_hand(pipe),
    }
    ops = {side: _ops_per_step(call, few) for side, call in calls.items()}
    sides = {side: _per_step(call, few, many) for side, call in calls.items()}
    times = interleaved(sides, options.rounds_of(full=21, quick=11), warmup=options.pick(2, 2, 1))
    times = {side: [1e3 * t for t in values] for side, values in times.items()}
    hand = interval([a / b for a, b in zip(times["hand"], times["peer"], strict=True)]).median
    counts = {f"ops_per_step_{side}": count for side, count in ops.items()} | {"floor_by_hand": round(hand, 3)}
    return ratio_row(f"loop overhead per step, {name}", times, at_most(0.6), sides="ms CPU", counts=counts)


def _ops_per_step(call: Callable[[int], Any], few: int) -> float:
    for steps in (few, few + 10):
        call(steps)
    return (dispatched(lambda: call(few + 10)) - dispatched(lambda: call(few))) / 10


def _draw(pipe: StubPipeline, steps: int) -> Any:
    return pipe(prompt="a red apple", seed=0, steps=steps, outputs=("latents",))


def _per_step(call: Callable[[int], Any], few: int, many: int) -> Measure:
    short, long = cpu_timed(lambda: call(few), REPEATS), cpu_timed(lambda: call(many), REPEATS)
    return lambda: (long() - short()) / (many - few)


def _by_hand(pipe: StubPipeline) -> Callable[[int], torch.Tensor]:
    """The least that a sampler written by hand does for the same mathematics."""
    network: StubNetwork = pipe.network
    embeds = torch.zeros(2, *pipe.shapes.embeds[1:])
    start = torch.randn(pipe.shapes.latents)

    def loop(steps: int) -> torch.Tensor:
        x = start
        for index in range(steps):
            (both,) = network(torch.cat([x, x]), index, embeds)
            negative, positive = both.chunk(2)
            x = torch.add(x * 0.99, torch.lerp(negative, positive, 7.5), alpha=0.01)
        return x

    return loop
