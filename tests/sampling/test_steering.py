"""`Denoise(steer=[...])`: units that steer the predictor from within the loop."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from calotype import UnitPack
from calotype.errors import GraphError
from calotype.graph.unit import unit
from calotype.sampling import Denoise, FlowMatchEuler, Scheduler, Steering, Step
from stubs import Encoder, Net, TextInputs, define, embeds, latents, noise, sigmas, velocity

PARTS = {"encoder": Encoder, "net": Net, "scheduler": Scheduler}


@dataclass(frozen=True)
class Shift(Steering):
    """Added to what is predicted."""

    amount: float

    def __add__(self, other: "Shift") -> "Shift":
        return Shift(self.amount + other.amount)


@unit
def steered(latents: Tensor, step: Step, embeds: Tensor, steering: Shift | None, *, net: Net) -> Tensor:
    return net(latents, step.sigma, embeds) + (0.0 if steering is None else steering.amount)


@unit
def early(latents: Tensor, step: Step) -> Shift | None:
    return Shift(1.0) if step.progress < 0.5 else None


def pipeline(*steer):
    loop = Denoise(steered, steer=steer)
    cls = define(embeds, noise, sigmas, latents, loop, inputs=TextInputs, **PARTS)
    return cls(encoder=Encoder(), net=Net(), scheduler=FlowMatchEuler())


def made(pipe):
    return pipe(prompt="a", steps=4, seed=3, guidance_scale=1.0, outputs=("latents",)).latents


def test_the_sum_is_added_at_the_steps_that_make_one():
    plain = made(pipeline())
    levels = FlowMatchEuler().schedule(4).sigmas
    with torch.no_grad():
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
        text = Encoder()("a")
        for i in range(4):
            amount = 1.0 * (i < 2) + 1.0 * (i < 2)
            x = x + (levels[i + 1] - levels[i]) * (Net()(x, levels[i], text) + amount)
    torch.testing.assert_close(made(pipeline(early, early)), x, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, x, atol=0.1)


def test_a_pack_steers_a_loop_that_had_none():
    pipe = pipeline()
    wider = pipe.with_units(UnitPack((), steer=(early,)))
    assert torch.equal(made(wider), made(pipeline(early)))
    assert torch.equal(made(pipe), made(pipeline()))


def test_what_a_loop_refuses():
    @unit
    def number(latents: Tensor) -> float:
        return 1.0

    with pytest.raises(GraphError, match="denoise: number makes float, but a unit in `steer` makes a Steering"):
        Denoise(steered, steer=[number])
    with pytest.raises(GraphError, match="early steers by Shift, but velocity has no parameter of that type"):
        Denoise(velocity, steer=[early])


@dataclass(frozen=True)
class Factor(Steering):
    """Multiplies what is predicted."""

    amount: float

    def __add__(self, other: "Factor") -> "Factor":
        return Factor(self.amount * other.amount)


def test_kinds_of_steering_reach_the_parameters_of_their_types():
    @unit
    def double(latents: Tensor) -> Factor | None:
        return Factor(2.0)

    @unit
    def both(
        latents: Tensor, step: Step, embeds: Tensor, shift: Shift | None, factor: Factor | None, *, net: Net
    ) -> Tensor:
        seen.append((shift, factor))
        return net(latents, step.sigma, embeds)

    seen: list[tuple[Shift | None, Factor | None]] = []
    loop = Denoise(both, steer=[early, double, early, double])
    cls = define(embeds, noise, sigmas, latents, loop, inputs=TextInputs, **PARTS)
    made(cls(encoder=Encoder(), net=Net(), scheduler=FlowMatchEuler()))
    assert seen == [(Shift(2.0), Factor(4.0))] * 2 + [(None, Factor(4.0))] * 2
