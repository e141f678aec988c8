"""Objectives with a teacher and with pairs: by hand on a network of one number, and a tiny run of each."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEuler
from calotype.errors import ConfigError, InputError
from calotype.sampling.levels import Level
from calotype.training import (
    AdamW,
    Batch,
    Denoising,
    DirectDistillation,
    DistributionMatching,
    FullWeights,
    LowRankChange,
    Preference,
    Rate,
    Row,
    Trainer,
    TrajectoryImitation,
    prior_rows,
)
from calotype.training.log import read_table
from calotype.training.settings import parse_settings
from calotype.training.trained import Trained
from training.small import color, rows, small


class OneNumber:
    """A network that multiplies what it is shown with a number, and did so with another before the training."""

    def __init__(self, now: float, before: float) -> None:
        self.now, self.before = torch.tensor(now, requires_grad=True), before
        self.told: list[float] = []

    def __call__(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        self.told.append(levels[0].timestep)
        return self.now * shown

    def before_training(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        return self.before * shown


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=draw(seed))


# -- preference --------------------------------------------------------------------------------------------------------


def test_preference_by_hand() -> None:
    scheduler, predict, timestep = DDIMScheduler(), OneNumber(0.7, 0.4), 300
    liked, not_liked, noise = normal(1), normal(2), normal(3)
    batch = Batch(
        liked, {}, torch.tensor([1.0, 0.5]), noise=noise, timesteps=torch.full((2,), float(timestep)),
        rejected=not_liked,
    )  # fmt: skip
    losses = Preference(beta=3.0).loss(batch, predict, scheduler, draw())
    share = scheduler.alphas_cumprod[timestep].item()

    def gain(clean: Tensor, now: Tensor | float) -> Tensor:
        seen = math.sqrt(share) * clean + math.sqrt(1 - share) * noise
        errors = [(number * seen - noise).square().mean((1, 2, 3)) for number in (now, 0.4)]
        return errors[0] - errors[1]

    now = torch.tensor(0.7, requires_grad=True)
    wanted = -torch.log(1 / (1 + torch.exp(0.5 * 3.0 * (gain(liked, now) - gain(not_liked, now)))))
    wanted = wanted * torch.tensor([1.0, 0.5])
    torch.testing.assert_close(losses, wanted)
    losses.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(predict.now.grad, now.grad)


def test_preference_before_any_step_is_the_logarithm_of_two() -> None:
    batch = Batch(normal(1), {}, torch.ones(2), rejected=normal(2))
    losses = Preference().loss(batch, OneNumber(0.4, 0.4), FlowMatchEuler(), draw())
    torch.testing.assert_close(losses, torch.full((2,), math.log(2)))


def test_preference_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every row must say what is liked less"):
        Preference().loss(Batch(normal(1), {}, torch.ones(2)), OneNumber(1.0, 1.0), FlowMatchEuler(), draw())
    target = FullWeights(component="net", result="component")
    with pytest.raises(InputError, match=r"row 0: objective 'preference' learns from pairs"):
        Trainer(small(), rows(2), tmp_path / "a", target=target, steps=1, objective=Preference()).train(progress=False)
    pairs = [Row("one", rows(1)[0], rejected={"image": color(0, 0, 0)})]
    with pytest.raises(InputError, match="one says what is liked less, of which objective 'denoising' makes no use"):
        Trainer(small(), pairs, tmp_path / "b", target=target, steps=1).train(progress=False)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_preference_moves_towards_what_is_liked(tmp_path: Path, cache: str | None) -> None:
    """The error of what is liked falls against that of what is not, on the whole network and with the cache alike."""
    red, black = color(250, 20, 20), color(5, 5, 5)
    pairs = [Row(f"{n}", {"prompt": f"colour {n}", "image": red}, rejected={"image": black}) for n in range(4)]
    pipe = small()
    pipe.net.drop.p = 0.0
    trainer = Trainer(
        pipe, pairs, tmp_path / "run", target=FullWeights(component="net", result="component"),
        objective=Preference(beta=20.0), steps=30, batch=4, optimizer=AdamW(rate=5e-3), cache=cache,
    )  # fmt: skip
    trainer.train(progress=False)
    losses = [float(row["loss"]) for row in read_table(tmp_path / "run")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert sum(losses[-5:]) / 5 < 0.5 * math.log(2)


# -- distillation ------------------------------------------------------------------------------------------------------


def test_direct_distillation_by_hand() -> None:
    """A flow whose velocity is `k x` by Euler's rule: every step multiplies with `1 + k (sigma' - sigma)`."""
    scheduler, predict, noise = FlowMatchEuler(), OneNumber(0.9, 0.5), normal(3)
    batch = Batch(normal(1), {}, torch.tensor([1.0, 2.0]), noise=noise)
    losses = DirectDistillation(steps=2, teacher_steps=5).loss(batch, predict, scheduler, draw())

    def arrived(number: Tensor | float, steps: int) -> Tensor | float:
        sigmas, x = scheduler.schedule(steps).sigmas, torch.tensor(1.0)
        for here, there in pairwise(sigmas):
            x = x * (1 + number * (there - here))
        return x

    now = torch.tensor(0.9, requires_grad=True)
    wanted = ((arrived(now, 2) - arrived(0.5, 5)) * noise).square().mean((1, 2, 3)) * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(losses, wanted)
    losses.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(predict.now.grad, now.grad)
    assert len(predict.told) == 2


def test_trajectory_imitation_by_hand() -> None:
    """With one student's step it starts at pure noise, whatever is drawn."""
    scheduler, predict, noise = FlowMatchEuler(), OneNumber(0.9, 0.5), normal(3)
    batch = Batch(normal(1), {}, torch.ones(2), noise=noise)
    losses = TrajectoryImitation(steps=1, teacher_steps=4).loss(batch, predict, scheduler, draw())
    sigmas, end = scheduler.schedule(4).sigmas, 1.0
    for here, there in pairwise(sigmas):
        end *= 1 + 0.5 * (there - here)
    now = torch.tensor(0.9, requires_grad=True)
    velocity = (end - 1.0) / (sigmas[-1] - sigmas[0])  # that would arrive in one step
    wanted = ((now - velocity) * noise).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, wanted)
    losses.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(predict.now.grad, now.grad)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEuler(),
        DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
        EulerDiscreteScheduler(timestep_spacing="trailing"),
    ],
)
def test_who_does_what_the_teacher_does_has_nothing_to_learn(scheduler: Any) -> None:
    """A teacher whose path is straight in the sense of DDIM: one long jump arrives where its short ones do."""

    class Always:
        """The right output for data that are all 0.3: the same clean sample at every level."""

        def __call__(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
            from calotype.sampling.schedulers.base import reading

            clean, level = reading(scheduler.parameterization, levels[0])[0], levels[0]
            return (0.3 - clean.latents * (shown / level.scale)) / clean.output

        before_training = __call__

    batch = Batch(normal(1), {}, torch.ones(2), noise=normal(3))
    for seed in range(4):  # another of the student's steps each
        objective = TrajectoryImitation(steps=4, teacher_steps=12)
        losses = objective.loss(batch, Always(), scheduler, draw(seed))
        torch.testing.assert_close(losses, torch.zeros(2), rtol=0, atol=1e-6)
    losses = DirectDistillation(steps=2, teacher_steps=12).loss(batch, Always(), scheduler, draw())
    torch.testing.assert_close(losses, torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "objective", [DirectDistillation(steps=2, teacher_steps=8), TrajectoryImitation(steps=2, teacher_steps=8)]
)
def test_two_steps_arrive_nearer_to_eight(tmp_path: Path, objective: Any) -> None:
    """From noise that training did not see, where eight steps arrived before it."""
    pipe = small()
    with torch.no_grad():
        for parameter in pipe.net.parameters():
            parameter.mul_(2.0)  # a path that is not straight

    def arrived(steps: int) -> Tensor:
        call = {"prompt": "colour 1", "guidance_scale": 1.0, "steps": steps, "outputs": ("latents",)}
        return torch.cat([pipe(**call, seed=seed).latents for seed in range(100, 108)])

    many, before = arrived(8), arrived(2)
    trainer = Trainer(
        pipe, rows(4), tmp_path / "run", target=LowRankChange(component="net", rank=8, layers=".*"),
        objective=objective, steps=60, batch=4, optimizer=AdamW(rate=1e-2, weight_decay=0.0),
        rate=Rate(curve="cosine"),
    )  # fmt: skip
    result = trainer.train(progress=False)
    pipe.load_adapter(result.files[0])
    after = arrived(2)
    assert (after - many).square().mean() < 0.7 * (before - many).square().mean()


@pytest.mark.parametrize("objective", [
    DirectDistillation(steps=1, teacher_steps=2), TrajectoryImitation(steps=1, teacher_steps=2),
    DistributionMatching(steps=1, critic_updates=1),
], ids=["direct", "imitation", "distribution"])  # fmt: skip
@pytest.mark.parametrize("cache", [None, "cache"])
def test_texts_are_data_enough_where_a_teacher_shows(objective: Any, cache: str | None, tmp_path: Path) -> None:
    texts = [{"prompt": f"colour {number}"} for number in range(3)]
    target = LowRankChange(component="net", rank=2, layers=".*")
    losses = []
    for name, data in (("texts", texts), ("pictures", rows(3))):
        pipe = small()
        pipe.net.drop.p = 0.0
        run = Trainer(pipe, data, tmp_path / name, target=target, objective=objective, steps=2, cache=cache)
        losses.append(run.train(progress=False).loss)
    assert losses[0] == losses[1]  # of pictures nothing is asked but the shape
    with pytest.raises(InputError, match="row 0: it makes no 'image_latents' to learn"):
        Trainer(small(), texts, tmp_path / "denoising", target=target, steps=1).train(progress=False)


def test_a_run_with_a_teacher_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """The teacher is what the run began with, not what the checkpoint has."""
    target = FullWeights(component="net", result="component")
    settings = {"target": target, "objective": DirectDistillation(steps=1, teacher_steps=4), "batch": 2}
    whole = small()
    Trainer(whole, rows(4), tmp_path / "a", steps=4, **settings).train(progress=False)
    Trainer(small(), rows(4), tmp_path / "b", steps=2, **settings).train(progress=False)
    parted = small()
    Trainer(parted, rows(4), tmp_path / "b", steps=4, **settings).train(resume=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), parted.net.parameters(), strict=True))


def test_the_original_is_exchanged_without_harm_to_gradients() -> None:
    module = nn.Linear(3, 1)
    trained = Trained(small(), "net", module)
    trained.keep_original()
    x = torch.randn(4, 3, generator=draw(1))
    with torch.no_grad():
        module.weight += 1.0
    hidden = functional.linear(x, module.weight).square().sum()  # its gradient needs the weight that is there now
    with trained.original(), torch.no_grad():
        before = module(x)
    hidden.backward()
    wanted = 2 * functional.linear(x, module.weight.detach()).T @ x
    torch.testing.assert_close(module.weight.grad, wanted)
    torch.testing.assert_close(module(x) - before, x.sum(1, keepdim=True))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_objectives_are_read_by_their_kind() -> None:
    target = {"kind": "lora", "component": "net"}
    read = parse_settings({"target": target, "steps": 1, "objective": {"kind": "trajectory_imitation", "steps": 2}})
    assert read.objective == TrajectoryImitation(steps=2)
    assert parse_settings({"target": target, "steps": 1, "objective": {"noise_offset": 0.1}}).objective == Denoising(
        noise_offset=0.1
    )
    with pytest.raises(ConfigError, match="preference"):
        parse_settings({"target": target, "steps": 1, "objective": {"kind": "preferense"}})


@pytest.mark.parametrize(
    ("fields", "message"), [({"teacher_steps": 4}, "must be more than steps 4"), ({"teacher_steps": 10}, "multiple")]
)
def test_wrong_numbers_of_steps_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrajectoryImitation(steps=4, **fields)


# -- what is known already ---------------------------------------------------------------------------------------------


def test_pictures_of_the_class_are_made_once(tmp_path: Path) -> None:
    pipe = small()
    call = {"prompt": "colour", "size": 8}
    found = prior_rows(pipe, call, tmp_path / "prior", count=3, weight=0.5)
    assert [row.weight for row in found] == [0.5] * 3
    assert [set(row.inputs) for row in found] == [{"prompt", "image"}] * 3
    pictures = [row.inputs["image"].read_bytes() for row in found]
    assert len(set(pictures)) == 3
    pipe.words.asked = 0
    again = prior_rows(pipe, call, tmp_path / "prior", count=3, weight=0.5)
    assert pipe.words.asked == 0 and again == found
    target = FullWeights(component="net", result="component")
    Trainer(pipe, [*(Row(str(n), row) for n, row in enumerate(rows(2))), *found], tmp_path / "run",
            target=target, steps=2, batch=5).train(progress=False)  # fmt: skip


def test_a_seed_for_the_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave 'seed' out"):
        prior_rows(small(), {"prompt": "colour", "seed": 1}, tmp_path)
    with pytest.raises(InputError, match="at least 1, got 0"):
        prior_rows(small(), {"prompt": "colour"}, tmp_path, count=0)
