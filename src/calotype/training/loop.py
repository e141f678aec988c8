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
from calotype.training.drawn import Rows, order_of
from calotype.training.items import Items
from calotype.training.objective import Objective
from calotype.training.optimizer import Average
from calotype.training.predictor import Predictor
from calotype.training.rows import Row, dropped, mixed
from calotype.training.settings import TrainingSettings
from calotype.training.trained import Trained

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossModule(nn.Module):
    """Everything from rows to losses as one module, so that what spreads modules over processes can be put around it.

    Args:
        trained: its parameters are this module's.
        items, predictor, objective: as in a step.
    """

    def __init__(self, trained: Trained, items: Items, predictor: Predictor, objective: Objective) -> None:
        super().__init__()
        self.trained = trained.module
        self.items, self.predictor, self.objective = items, predictor, objective

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the trained loop."""
        return self.predictor.scheduler

    def forward(self, rows: Sequence[Row], inputs: Sequence[Mapping[str, Any]], draw: torch.Generator) -> Tensor:
        """The weighted loss of each row, float32 [b]."""
        batch = self.items.batch(rows, inputs)
        if self.objective.needs_pairs:
            worse = [{**one, **(row.rejected or {})} for row, one in zip(rows, inputs, strict=True)]
            batch = replace(batch, rejected=self.items.batch(rows, worse).clean)
        return self.objective.loss(batch, self.predictor, self.scheduler, draw)


@dataclass(frozen=True)
class StepReport:
    """What a step did: its number from 1, the mean loss, the learning rate and the gradient's length."""

    step: int
    loss: float
    rate: float
    gradient: float


class Loop:
    """The state of a run and the step that changes it.

    Args:
        trained: what is trained.
        module: from rows to losses.
        rows: to train on.
        settings: how.
        accelerator: of processes, devices and precision.
    """

    def __init__(
        self,
        trained: Trained,
        module: LossModule,
        rows: Rows,
        settings: TrainingSettings,
        accelerator: "Accelerator",
    ) -> None:
        self.trained, self.rows, self.settings, self.accelerator = trained, rows, settings, accelerator
        self.order = order_of(rows, settings.batch, settings.seed)
        self.done = 0
        self.average = Average(trained.parameters, settings.average) if settings.average else None
        optimizer = settings.optimizer.make(trained.parameters)
        self.plain = module
        self.module, self.optimizer = accelerator.prepare(module, optimizer)

    def step(self) -> StepReport:
        """Take one step.

        Raises:
            TrainingError: the loss or the gradient is not finite. The parameters are those before the step.
        """
        rate = self.settings.optimizer.rate * self.settings.rate.factor(self.done, self.settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        loss = sum(self._backward(micro) for micro in range(self.settings.accumulate))
        gradient = float(self.accelerator.clip_grad_norm_(self._parameters(), self.settings.clip or math.inf))
        if not math.isfinite(loss) or (not math.isfinite(gradient) and self.settings.precision != "fp16"):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's length is {gradient}"
            raise TrainingError(f"step {self.done + 1}: {what}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.trained.parameters, self.done)
        self.done += 1
        return StepReport(self.done, float(loss), rate, gradient)

    def _backward(self, micro: int) -> float:
        """The gradient of one batch, and its loss as a share of the step's."""
        count = self.settings.accumulate
        number = (self.done * count + micro) * self.accelerator.num_processes + self.accelerator.process_index
        turn, chosen = self.order.batch(number)
        rows = [self.rows[index] for index in chosen]
        inputs = [self.inputs(row, turn, index) for row, index in zip(rows, chosen, strict=True)]
        seed = mixed(self.settings.seed, "step", number)
        last = micro + 1 == count
        with torch.random.fork_rng(), self._synced(last):
            torch.manual_seed(seed)  # dropout within networks
            losses = self.module(rows, inputs, torch.Generator().manual_seed(seed))
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

        return nullcontext() if last else self.accelerator.no_sync(self.module)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def state(self, facts: Mapping[str, Any]) -> Checkpoint:
        """Everything that is needed to go on from here."""
        parameters = {name: p.detach() for name, p in self.trained.parameters.items()}
        average = None if self.average is None else self.average.values
        scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        return Checkpoint(self.done, parameters, average, self.optimizer.state_dict(), facts, scaler)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises `ConfigError` where it is of other parameters."""
        parameters = self.trained.parameters
        if parameters.keys() != checkpoint.trained.keys():
            other = sorted(parameters.keys() ^ checkpoint.trained.keys())
            raise ConfigError(f"the checkpoint is of other parameters: {', '.join(other[:6])}")
        for name, parameter in parameters.items():
            parameter.copy_(checkpoint.trained[name])
        if self.average is not None and checkpoint.average is not None:
            for name, value in self.average.values.items():
                value.copy_(checkpoint.average[name])
        self.optimizer.load_state_dict(dict(checkpoint.optimizer))
        if self.accelerator.scaler is not None and checkpoint.scaler:
            self.accelerator.scaler.load_state_dict(dict(checkpoint.scaler))
        self.done = checkpoint.step
