"""Matching of distributions: by hand on networks of one number, and runs with a critic that learns beside."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype import DDIMScheduler, FlowMatchEuler
from calotype.errors import ConfigError, TrainingError
from calotype.sampling.levels import Level
from calotype.training import AdamW, Batch, DistributionMatching, FullWeights, LowRankChange, Trainer
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from calotype.training.critic import Critic, Roles
from calotype.training.log import read_table
from calotype.training.trained import Trained
from training.small import rows, small


class ThreeNumbers:
    """A network that multiplies what it is shown with a number; the teacher and the critic have others."""

    def __init__(self, now: float, before: float, critic: float) -> None:
        self.now, self.critic = (torch.tensor(number, requires_grad=True) for number in (now, critic))
        self.before = before
        self.told: list[list[float]] = []

    def __call__(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        self.told.append([level.sigma for level in levels])
        return self.now * shown

    def before_training(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        return self.before * shown

    def by_critic(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        return self.critic * shown


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(timestep: float) -> Batch:
    noise = torch.randn(2, 2, 4, 4, generator=draw(1))
    return Batch(noise, {}, torch.tensor([1.0, 0.5]), noise=noise, timesteps=torch.full((2,), timestep))


def test_the_gradient_of_one_step_by_hand() -> None:
    """A flow of velocity `k x`: clean is `x - sigma k x`. Yin et al. 2023, eq. 7 and 8."""
    predict, given, sigma = ThreeNumbers(0.7, 0.4, 0.9), batch(600.0), 0.6
    objective = DistributionMatching(steps=1)
    losses = objective.loss(given, predict, FlowMatchEuler(), draw(3))
    losses.sum().backward()

    again = draw(3)
    torch.randint(0, 1, (), generator=again)
    noise = torch.randn(given.noise.shape, generator=again)
    result = (1 - 0.7) * given.noise  # a step from pure noise, at sigma 1
    seen = (1 - sigma) * result + sigma * noise
    real, fake = ((1 - sigma * k) * seen for k in (0.4, 0.9))
    move = (fake - real) / (result - real).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(losses, 0.5 * move.square().mean((1, 2, 3)) * given.weights)
    wanted = (move * -given.noise).mean((1, 2, 3)) * given.weights  # of the result by `k`: minus the noise
    torch.testing.assert_close(predict.now.grad, wanted.sum())
    assert predict.critic.grad is None


def test_the_critic_learns_to_denoise_results_and_nothing_else_does() -> None:
    predict, given, sigma = ThreeNumbers(0.7, 0.4, 0.9), batch(600.0), 0.6
    losses = DistributionMatching(steps=1).critic_loss(given, predict, FlowMatchEuler(), draw(3))
    losses.sum().backward()
    again = draw(3)
    torch.randint(0, 1, (), generator=again)
    noise = torch.randn(given.noise.shape, generator=again)
    result = (1 - 0.7) * given.noise
    seen = (1 - sigma) * result + sigma * noise
    wanted = (0.9 * seen - (noise - result)).square().mean((1, 2, 3)) * given.weights
    torch.testing.assert_close(losses, wanted)
    assert predict.now.grad is None and predict.critic.grad is not None


def test_results_are_of_every_step_and_gradients_of_the_last_one() -> None:
    scheduler, ends = FlowMatchEuler(), set()
    for seed in range(20):
        predict = ThreeNumbers(0.7, 0.4, 0.9)
        result = DistributionMatching(steps=3).result(batch(500.0), predict, scheduler, draw(seed))
        path = scheduler.schedule(3).here[: len(predict.told)]
        assert [told[0] for told in predict.told] == [level.sigma for level in path]
        x = batch(500.0).noise
        for here, there in pairwise(path):
            x = x * (1 + 0.7 * (there.sigma - here.sigma))
        torch.testing.assert_close(result, (1 - path[-1].sigma * 0.7) * x)
        result.sum().backward()
        torch.testing.assert_close(predict.now.grad, (-path[-1].sigma * x).sum())
        ends.add(len(path))
    assert ends == {1, 2, 3}


@pytest.mark.parametrize("scheduler", [FlowMatchEuler(), DDIMScheduler(clip_sample=False, timestep_spacing="trailing")])
def test_who_the_critic_cannot_tell_from_the_teacher_stays(scheduler: Any) -> None:
    losses = DistributionMatching(steps=2).loss(batch(500.0), ThreeNumbers(0.7, 0.4, 0.4), scheduler, draw())
    torch.testing.assert_close(losses.detach(), torch.zeros(2))


# -- the critic --------------------------------------------------------------------------------------------------------


def test_each_role_is_played_by_its_own_parameters() -> None:
    module = nn.Linear(1, 1, bias=False)
    trained = Trained(small(), ("net",), module)
    trained.keep_original()
    critic = Critic(trained, AdamW())
    with torch.no_grad():
        before = module.weight.item()
        module.weight.fill_(2.0)
        critic.values["weight"].fill_(3.0)

    class Predict:
        def __call__(self, shown: Any, levels: Any, conditions: Any) -> float:
            return module.weight.item()

        def before_training(self, shown: Any, levels: Any, conditions: Any) -> float:
            with trained.original():
                return module.weight.item()

        by_critic = __call__

    roles = Roles(Predict(), critic)

    def asked() -> list[float]:
        return [role(None, [], {}) for role in (roles, roles.before_training, roles.by_critic)]

    assert asked() == [2.0, before, 3.0]
    with critic.in_place():
        assert module.weight.item() == 3.0
        assert asked() == [2.0, before, 3.0]
        module(torch.ones(1, 1)).sum().backward()
    assert module.weight.item() == 2.0
    assert critic.learn(None) == 1.0
    critic.move()
    assert module.weight.grad is None and module.weight.item() == 2.0
    assert critic.values["weight"].item() < 3.0


TARGETS = (FullWeights(component="net", result="component"), LowRankChange(component="net", rank=4, layers=".*"))


def run(folder: Path, target: Any, steps: int, **more: Any) -> Any:
    pipe = small()
    settings = {
        "objective": DistributionMatching(steps=2, critic_updates=2, critic=AdamW(rate=1e-2)),
        "optimizer": AdamW(rate=3e-3), "batch": 2, "accumulate": 2, "average": 0.5, "checkpoint_every": 1, **more,
    }  # fmt: skip
    Trainer(pipe, rows(5), folder, target=target, steps=steps, **settings).train(resume=True, progress=False)
    return load_checkpoint(last_checkpoint(folder) or folder)


@pytest.mark.parametrize("target", TARGETS, ids=["full", "lora"])
def test_a_run_with_a_critic_goes_on_as_it_would_have(tmp_path: Path, target: Any) -> None:
    whole = run(tmp_path / "whole", target, 4)
    run(tmp_path / "parted", target, 2)
    parted = run(tmp_path / "parted", target, 4)
    assert whole.critic is not None and parted.critic is not None
    for a, b in ((whole.trained, parted.trained), (whole.average, parted.average), (whole.critic[0], parted.critic[0])):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for number, values in whole.critic[1]["state"].items():
        assert all(torch.equal(value, parted.critic[1]["state"][number][name]) for name, value in values.items())
    assert any(not torch.equal(whole.critic[0][name], value) for name, value in whole.trained.items())
    assert all(int(values["step"]) == 8 for values in whole.critic[1]["state"].values())
    table = read_table(tmp_path / "whole")
    assert all(float(row["critic"]) > 0.0 for row in table)


class Gaussians:
    """A teacher whose data are numbers of a mean and a spread, a student whose only step is a line, and a critic that
    knows what numbers of some mean and spread ask for."""

    def __init__(self) -> None:
        self.line = torch.tensor([0.9, 0.0], requires_grad=True)
        self.of_critic = torch.tensor([0.0, 0.1], requires_grad=True)
        self.of_teacher = torch.tensor([0.7, 0.4])

    def __call__(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        return self.line[0] * shown + self.line[1]

    def before_training(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        return self._velocity(shown, levels, self.of_teacher)

    def by_critic(self, shown: Tensor, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Tensor:
        return self._velocity(shown, levels, self.of_critic)

    def _velocity(self, x: Tensor, levels: Sequence[Level], known: Tensor) -> Tensor:
        """What noise minus number is on average, where `(1 - sigma) number + sigma noise` is seen."""
        sigma = torch.tensor([level.sigma for level in levels]).view(-1, 1)
        mean, spread = known
        away = (x - (1 - sigma) * mean) / ((1 - sigma).square() * spread.square() + sigma.square())
        return sigma * away - mean - (1 - sigma) * spread.square() * away

    def made(self) -> tuple[float, float]:
        """Mean and spread of what the student makes of noise."""
        return -self.line[1].item(), abs(1.0 - self.line[0].item())


def test_what_is_made_comes_to_have_the_teachers_mean_and_spread() -> None:
    predict, objective, scheduler = Gaussians(), DistributionMatching(steps=1, critic_updates=2), FlowMatchEuler()
    student = torch.optim.Adam([predict.line], lr=1.5e-2)
    critic = torch.optim.Adam([predict.of_critic], lr=6e-2)
    assert predict.made() == pytest.approx((0.0, 0.1))
    for step in range(150):
        given = Batch(torch.zeros(8, 1), {}, torch.ones(8))
        for update in range(objective.critic_updates):
            critic.zero_grad()
            objective.critic_loss(given, predict, scheduler, draw(4 * step + update)).mean().backward()
            critic.step()
        student.zero_grad()
        objective.loss(given, predict, scheduler, draw(4 * step + 3)).mean().backward()
        student.step()
    assert predict.made() == pytest.approx((0.7, 0.4), abs=0.08)
    assert predict.of_critic.abs().tolist() == pytest.approx([0.7, 0.4], abs=0.1)


def test_a_critic_that_fails_stops_the_run(tmp_path: Path) -> None:
    pipe = small()
    net, steps = pipe.net.forward, []

    def forward(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        steps.append(torch.is_grad_enabled())
        return net(x, sigma, text) * (float("nan") if sum(steps) == 4 else 1.0)

    pipe.net.forward = forward
    objective = DistributionMatching(steps=1, critic_updates=2)
    with pytest.raises(TrainingError, match=r"step 2: the critic's loss is nan; the last good .*00000001"):
        Trainer(
            pipe, rows(), tmp_path, target=TARGETS[0], steps=4, objective=objective, checkpoint_every=1
        ).train(progress=False)  # fmt: skip


def test_half_precision_with_a_scaled_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision 'fp16' scales one loss, and distribution_matching has two"):
        Trainer(
            small(), rows(), tmp_path, target=TARGETS[0], steps=1, objective=DistributionMatching(), precision="fp16"
        ).train(progress=False)  # fmt: skip


def test_impossible_numbers_are_refused() -> None:
    for fields in ({"steps": 0}, {"critic_updates": 0}):
        with pytest.raises(ConfigError, match="greater than or equal to 1"):
            DistributionMatching(**fields)
