"""Optimizers and learning rates, as values."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from calotype.errors import ConfigError
from calotype.training.values import Value


class AdamW(Value):
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    Attributes:
        eight_bit: keep the moments in 8 bits; needs the package `bitsandbytes`.
    """

    kind: Literal["adamw"] = "adamw"
    rate: float = Field(default=1e-4, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    eight_bit: bool = False

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters. Raises `ConfigError` where a package is missing."""
        fields = {"lr": self.rate, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        if not self.eight_bit:
            return torch.optim.AdamW(list(parameters), **fields)  # type: ignore[arg-type]
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise ConfigError("eight_bit=True needs the package bitsandbytes: pip install bitsandbytes") from None
        made: torch.optim.Optimizer = AdamW8bit(list(parameters), **fields)
        return made


class SGD(Value):
    """Gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    rate: float = Field(default=1e-3, gt=0.0)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        return torch.optim.SGD(list(parameters), lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay)


Optimizer = Annotated[AdamW | SGD, Field(discriminator="kind")]


class Rate(Value):
    """How the learning rate goes: up over `warmup` steps, then along a curve down to `end` of it.

    Attributes:
        curve: after the warm-up.
        warmup: how many steps.
        end: the share of the rate that is left at the last step.
    """

    curve: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = Field(default=0, ge=0)
    end: float = Field(default=0.0, ge=0.0, le=1.0)

    def factor(self, step: int, steps: int) -> float:
        """What the rate is multiplied by at a step, from 0, of so many."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.curve == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, steps - self.warmup)
        left = 1.0 - done if self.curve == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.end + (1.0 - self.end) * left


class Average:
    """An exponential moving average of parameters, float32, on their devices (Polyak and Juditsky, 1992).

    The first steps count less: the decay is at most `(1 + step) / (10 + step)`.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """Take in the parameters after a step, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own = list(self.values.values())
        torch._foreach_lerp_(own, [parameters[name].detach().float() for name in self.values], 1.0 - decay)
