"""One step after the other: losses, gradients, the optimizer, averages. What a step does follows from its number."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calotype.errors import ConfigError, TrainingError
from calotype.sampling.schedulers.base import Scheduler
from calotype.training.checkpoint import Checkpoint
from calotype.training.critic import Critic, Roles
from calotype.training.distribution import DistributionMatching
from calotype.training.drawn import Rows, order_of
from calotype.training.items import Items
from calotype.training.objective import Objective
from calotype.training.optimizer import Average
from calotype.training.predictor import Predictor
from calotype.training.rows import Row, dropped, mixed
from calotype.training.settings import TrainingSettings
from calotype.training.sharded import Shards, placed, placed_state, whole, whole_state
from calotype.training.trained import Trained

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossModule(nn.Module):
    """Everything from rows to losses as one module, so that what spreads modules over processes can be put around it.

    Args:
        trained: its parameters are this module's.
        items, predictor, objective: as in a step.

    Attributes:
        critic: what learns beside the trained parameters, where the objective has such.
    """

    def __init__(self, trained: Trained, items: Items, predictor: Predictor, objective: Objective) -> None:
        super().__init__()
        self.trained = trained.module
        self.items, self.predictor, self.objective = items, predictor, objective
        self.critic = Critic(trained, objective.critic) if isinstance(objective, DistributionMatching) else None
        self._roles = Roles(predictor, self.critic)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the trained loop."""
        return self.predictor.scheduler

    def forward(
        self, rows: Sequence[Row], inputs: Sequence[Mapping[str, Any]], draw: torch.Generator, of_critic: bool = False
    ) -> Tensor:
        """The weighted loss of each row, float32 [b]; `of_critic` asks for the critic's."""
        batch = self.items.batch(rows, inputs)
        if of_critic:
            assert isinstance(self.objective, DistributionMatching), "who asks for it has a critic"
            return self.objective.critic_loss(batch, self._roles, self.scheduler, draw)
        if self.objective.needs_pairs:
            worse = [{**one, **(row.rejected or {})} for row, one in zip(rows, inputs, strict=True)]
            batch = replace(batch, rejected=self.items.batch(rows, worse).clean)
        return self.objective.loss(batch, self._roles, self.scheduler, draw)


@dataclass(frozen=True)
class StepReport:
    """What a step did: its number from 1, the mean loss, the learning rate and the gradient's length; and the mean loss
    of the critic, where there is one."""

    step: int
    loss: float
    rate: float
    gradient: float
    critic: float | None = None


class Loop:
    """The state of a run and the step that changes it.

    Args:
        trained: what is trained.
        module: from rows to losses.
        rows: to train on.
        settings: how.
        accelerator: of processes, devices and precision.
        shards: the trained networks, where each process has a part of them.
    """

    def __init__(
        self,
        trained: Trained,
        module: LossModule,
        rows: Rows,
        settings: TrainingSettings,
        accelerator: "Accelerator",
        shards: Shards | None = None,
    ) -> None:
        self.shards = shards
        self.trained, self.rows, self.settings, self.accelerator = trained, rows, settings, accelerator
        self.order = order_of(rows, settings.batch, settings.seed)
        self.done = 0
        self.average = Average(trained.parameters, settings.average) if settings.average else None
        self.updates = settings.objective.critic_updates if isinstance(settings.objective, DistributionMatching) else 0
        optimizer = settings.optimizer.make(trained.parameters)
        self.plain = module
        if shards is None:
            self.module, self.optimizer = accelerator.prepare(module, optimizer)
        else:
            self.module, self.optimizer = module, accelerator.prepare(optimizer)

    def step(self) -> StepReport:
        """Take one step.

        Raises:
            TrainingError: the loss or the gradient is not finite. The parameters are those before the step.
        """
        rate = self.settings.optimizer.rate * self.settings.rate.factor(self.done, self.settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        critic = [self._critic_step(turn) for turn in range(self.updates)]
        loss = self._backward(self.updates)
        gradient = float(whole(self.accelerator.clip_grad_norm_(self._parameters(), self.settings.clip or math.inf)))
        self._refuse_not_finite("", loss, gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.trained.parameters, self.done)
        self.done += 1
        return StepReport(self.done, loss, rate, gradient, sum(critic) / len(critic) if critic else None)

    def _critic_step(self, turn: int) -> float:
        """Let the critic learn from batches of its own; its loss."""
        critic = self.plain.critic
        assert critic is not None
        with critic.in_place():
            loss = self._backward(turn, of_critic=True)
        self._refuse_not_finite("critic's ", loss, critic.learn(self.settings.clip))
        critic.move()
        return loss

    def _refuse_not_finite(self, whose: str, loss: float, gradient: float) -> None:
        if not math.isfinite(loss) or (not math.isfinite(gradient) and self.settings.precision != "fp16"):
            what = f"{whose}loss is {loss}" if not math.isfinite(loss) else f"{whose}gradient's length is {gradient}"
            raise TrainingError(f"step {self.done + 1}: the {what}")

    def _backward(self, turn: int, *, of_critic: bool = False) -> float:
        """The gradients of the batches of one update, of so many in a step, and their mean loss."""
        return sum(self._of_batch(turn, micro, of_critic) for micro in range(self.settings.accumulate))

    def _of_batch(self, update: int, micro: int, of_critic: bool) -> float:
        """The gradient of one batch, and its loss as a share of the update's."""
        count = self.settings.accumulate
        place = (self.done * (self.updates + 1) + update) * count + micro
        number = place * self.accelerator.num_processes + self.accelerator.process_index
        turn, chosen = self.order.batch(number)
        rows = [self.rows[index] for index in chosen]
        inputs = [self.inputs(row, turn, index) for row, index in zip(rows, chosen, strict=True)]
        seed = mixed(self.settings.seed, "step", number)
        last = micro + 1 == count
        with torch.random.fork_rng(), self._synced(last):
            torch.manual_seed(seed)  # dropout within networks
            losses = self.module(rows, inputs, torch.Generator().manual_seed(seed), of_critic)
            loss = losses.mean() / count
            self.accelerator.backward(loss)
        shared: Tensor = self.accelerator.reduce(loss.detach(), "mean")
        return shared.item()

    def inputs(self, row: Row, turn: int, index: int) -> dict[str, Any]:
        """What a row gives the pipeline in a pass over the data."""
        return dropped({**self.settings.inputs, **row.inputs}, self.settings.dropout, self.settings.seed, turn, index)

    @torch.no_grad()
    def loss_of(self, rows: Sequence[Row], seed: int) -> float:
        """The mean loss of rows, at noise that is the same every time."""
        total, size = 0.0, self.settings.batch
        buckets: dict[Hashable, list[Row]] = {}
        for row in rows:
            buckets.setdefault(row.bucket, []).append(row)
        parts = [members[at : at + size] for members in buckets.values() for at in range(0, len(members), size)]
        for number, part in enumerate(parts):
            draw = torch.Generator().manual_seed(mixed(seed, "held out", number * size))
            losses = self.plain(part, [{**self.settings.inputs, **row.inputs} for row in part], draw)
            total += losses.sum().item()
        return total / len(rows)

    def _parameters(self) -> list[nn.Parameter]:
        return list(self.trained.parameters.values())

    def _synced(self, last: bool) -> Any:
        """Gradients are exchanged between processes after the last batch of a step only."""
        from contextlib import nullcontext

        if self.shards is not None:
            self.shards.synced(last)
            return self.accelerator.autocast()
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def join(self) -> None:
        """Have the whole of what is trained, and of its average, in every process."""
        if self.shards is None:
            return
        if self.average is not None:
            self.average.values = {name: whole(value) for name, value in self.average.values.items()}
        self.shards.join()

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def state(self, facts: Mapping[str, Any]) -> Checkpoint:
        """Everything that is needed to go on from here."""
        parameters = {name: whole(p.detach()) for name, p in self.trained.parameters.items()}
        average = None if self.average is None else {n: whole(value) for n, value in self.average.values.items()}
        optimizer = whole_state(self.optimizer.state_dict())
        scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        critic, critics = self.plain.critic, None
        if critic is not None:
            critics = {name: value.detach() for name, value in critic.values.items()}, critic.optimizer.state_dict()
        return Checkpoint(self.done, parameters, average, optimizer, facts, scaler, critics)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises `ConfigError` where it is of other parameters."""
        parameters = self.trained.parameters
        was, now = ({name: p.shape for name, p in values.items()} for values in (checkpoint.trained, parameters))
        if other := sorted(name for name in {*was, *now} if was.get(name) != now.get(name)):
            raise ConfigError(f"the checkpoint is of other parameters: {', '.join(other[:6])}")
        for name, parameter in parameters.items():
            parameter.copy_(placed(checkpoint.trained[name], parameter))
        if self.average is not None and checkpoint.average is not None:
            for name, value in self.average.values.items():
                value.copy_(placed(checkpoint.average[name], value))
        self.optimizer.load_state_dict(placed_state(checkpoint.optimizer, iter(parameters.values())))
        if self.plain.critic is not None and checkpoint.critic is not None:
            self.plain.critic.restore(*checkpoint.critic)
        if self.accelerator.scaler is not None and checkpoint.scaler:
            self.accelerator.scaler.load_state_dict(dict(checkpoint.scaler))
        self.done = checkpoint.step
