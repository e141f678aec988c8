"""Units that run once for a loop: for each batch of branches, in order, and no more often."""

from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from calotype.errors import GraphError
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline
from calotype.sampling import Denoise, FlowMatchEuler, NoiseLevels, Scheduler, Step
from calotype.sampling.steering import Steering
from stubs import Encoder, Net, TextInputs, embeds, noise

CALLS: list[Any] = []


@dataclass(frozen=True)
class Hints(Steering):
    amounts: tuple[float, ...]

    def __add__(self, other: Self) -> Self:
        return type(self)((*self.amounts, *other.amounts))


@unit
def latents(noise: Tensor) -> Tensor:
    return noise


@unit
def sigmas(steps: int, *, scheduler: Scheduler) -> NoiseLevels:
    return scheduler.schedule(steps)


@unit
def doubled(embeds: Tensor, hints: Hints | None) -> Tensor:
    CALLS.append(("doubled", len(embeds), hints))
    return embeds * 2


@unit
def strengths(sigmas: NoiseLevels) -> tuple[float, ...]:
    CALLS.append(("strengths", len(sigmas)))
    return tuple(level.sigma for level in sigmas.here)


@unit
def hint(guidance_scale: float) -> Hints:
    return Hints((guidance_scale,))


@unit
def velocity(latents: Tensor, step: Step, doubled: Tensor, strengths: tuple[float, ...], *, net: Net) -> Tensor:
    return net(latents, strengths[step.index], doubled / 2)


@unit
def plain(latents: Tensor, step: Step, embeds: Tensor, *, net: Net) -> Tensor:
    return net(latents, step.sigma, embeds)


def pipeline(loop: Denoise) -> Any:
    class Pipe(DiffusionPipeline):
        encoder: Encoder
        net: Net
        scheduler: Scheduler
        units = (embeds, noise, sigmas, latents.renamed(latents="latents"), loop)
        Inputs = TextInputs

    return Pipe(encoder=Encoder(), net=Net(), scheduler=FlowMatchEuler(), memo=0, device="cpu")


@pytest.mark.parametrize("together", [True, False])
def test_a_loop_makes_once_what_stays_the_same(together: bool) -> None:
    CALLS.clear()
    pipe = pipeline(Denoise(velocity, once=[doubled, strengths, hint], batch_branches=together))
    same = pipeline(Denoise(plain, batch_branches=together))
    found = pipe(prompt=["a", "b"], seed=1, outputs=["latents"])["latents"]
    wanted = same(prompt=["a", "b"], seed=1, outputs=["latents"])["latents"]
    assert all(map(torch.equal, found, wanted))
    batches = [("doubled", 4, Hints((3.0,)))] if together else [("doubled", 2, Hints((3.0,)))] * 2
    assert [call for call in CALLS if call[0] == "doubled"] == batches
    assert [call for call in CALLS if call[0] == "strengths"] == [("strengths", 4)]  # it is the same for all branches


def test_what_changes_in_the_loop_cannot_be_made_once() -> None:
    @unit
    def early(step: Step) -> Tensor:
        return torch.zeros(1)

    with pytest.raises(GraphError, match="early runs once for the loop, so it cannot read 'step'"):
        Denoise(plain, once=[early])


def test_what_steers_needs_a_taker() -> None:
    with pytest.raises(GraphError, match=r"hint makes .*Hints, which no unit in `once` takes"):
        Denoise(plain, once=[hint])
