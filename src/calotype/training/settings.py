"""How a run trains, as a value: one model of settings for Python, the command line and files."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from calotype.configured import explained
from calotype.errors import ConfigError
from calotype.graph.memo import fingerprint
from calotype.training.distribution import DistributionMatching
from calotype.training.objective import Denoising
from calotype.training.objectives import AnyObjective
from calotype.training.optimizer import AdamW, Optimizer, Rate
from calotype.training.targets import AnyTarget
from calotype.training.values import Value


class Validation(Value):
    """What is looked at while a run trains.

    Attributes:
        every: after how many steps.
        calls: inputs of calls whose pictures are saved; each needs a seed of its own to be comparable.
        held_out: the share of the rows that is kept out of training, whose loss is measured at fixed noise.
        rows: at most so many of them.
    """

    every: int = Field(default=500, ge=1)
    calls: tuple[Mapping[str, Any], ...] = ()
    held_out: float = Field(default=0.0, ge=0.0, lt=1.0)
    rows: int = Field(default=64, ge=1)


class TrainingSettings(Value):
    """How a run trains.

    Attributes:
        target: what is trained.
        objective: what it learns to do.
        optimizer, rate: how its parameters move.
        steps: how many times they do.
        batch: how many rows the network sees at once.
        accumulate: how many batches one step is of.
        clip: the longest that the gradient may be; None leaves it as it is.
        average: the decay of the moving average that is saved and validated with; None saves the last parameters.
        precision: `"bf16"` or `"fp16"` computes in half precision what allows it; parameters stay float32.
        recompute: compute activations again in the backward pass, which takes less memory and more time.
        compile: have `torch.compile` make one program of each network that is trained or changed, by its backend
            `"inductor"` or the one that is named. The first steps take longer.
        sharded: share out the parameters of the network, their gradients and moments over all processes (FSDP), each
            of which has a part; for full weights.
        dropout: the share of the rows in which a text is left out, by input.
        inputs: inputs that all rows have in common.
        loop, clean: which loop, and which wire holds the data, where the pipeline leaves a choice.
        cache: compute what is frozen once, and keep it in this folder, below the run's or an absolute path.
        cache_batch: how many rows the frozen units are given at once to fill the cache, where they say how
            (`@unit(together=)`). Above 1 values differ from those of one row by rounding.
        workers: how many processes fill the cache.
        checkpoint_every: after how many steps a checkpoint is written; one is at the end too.
        keep: how many checkpoints are kept.
        validation: what is looked at while it trains.
        log: where losses go: a table of the run's folder, TensorBoard's files, and Weights & Biases.
        seed: of everything that is random.
    """

    target: AnyTarget
    objective: AnyObjective = Denoising()
    optimizer: Optimizer = AdamW()
    rate: Rate = Rate()
    steps: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    clip: float | None = Field(default=1.0, gt=0.0)
    average: float | None = Field(default=None, gt=0.0, lt=1.0)
    precision: Literal["no", "bf16", "fp16"] = "no"
    recompute: bool = False
    compile: bool | str = False
    sharded: bool = False
    dropout: Mapping[str, float] = {}
    inputs: Mapping[str, Any] = {}
    loop: str | None = None
    clean: str | None = None
    cache: str | None = Field(default=None, min_length=1)
    cache_batch: int = Field(default=1, ge=1)
    workers: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep: int | None = Field(default=3, ge=1)
    validation: Validation = Validation()
    log: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ("csv",)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_loss(self) -> Self:
        if self.precision == "fp16" and isinstance(self.objective, DistributionMatching):
            raise ValueError("precision 'fp16' scales one loss, and distribution_matching has two; give 'bf16'")
        return self

    @model_validator(mode="after")
    def _has_a_cache(self) -> Self:
        if self.cache_batch > 1 and self.cache is None:
            raise ValueError("cache_batch is of a cache, and there is none; give cache='cache', or leave it out")
        return self

    @model_validator(mode="after")
    def _can_be_shared_out(self) -> Self:
        if not self.sharded:
            return self
        reasons = {
            "a target other than full weights": self.target.kind != "full",
            f"objective {self.objective.kind!r}, which keeps other weights beside": self.objective.needs_original,
            f"optimizer {self.optimizer.kind!r}, which needs whole matrices": self.optimizer.kind == "muon",
            "eight_bit": getattr(self.optimizer, "eight_bit", False),
            "precision 'fp16'": self.precision == "fp16",
            "compile": bool(self.compile),
        }
        if wrong := [reason for reason, given in reasons.items() if given]:
            raise ValueError(f"sharded cannot be had with {' or '.join(wrong)}; leave it out")
        return self

    def described(self, leave_out: Iterable[str] = ()) -> dict[str, Any]:
        """The fields as JSON has them. A picture, which JSON has no form for, is there as what it is known by."""
        fields = self.model_dump(exclude=set(leave_out))
        found: dict[str, Any] = json.loads(json.dumps(fields, default=_known_by))
        return found


def _known_by(value: Any) -> str:
    return str(value) if isinstance(value, Path) else repr(fingerprint(value))


LATER = frozenset({"steps", "checkpoint_every", "keep", "validation", "log", "cache", "workers", "sharded"})
"""Settings that may change when a run goes on: none of them changes what a step does, but
that of a rate that goes down the length of the curve is `steps`."""


def parse_settings(fields: Mapping[str, Any], kind: type[TrainingSettings] = TrainingSettings) -> TrainingSettings:
    """Settings of a kind from their fields. Raises `ConfigError`, naming every field that is wrong."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise ConfigError(explained("Trainer", kind, error)) from None
