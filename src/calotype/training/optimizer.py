"""Optimizers and learning rates, as values."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from calotype.errors import ConfigError
from calotype.training.sharded import local
from calotype.training.trained import matching
from calotype.training.values import Value

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class AdamW(Value):
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    Attributes:
        eight_bit: keep the moments in 8 bits (Dettmers et al. 2022), a quarter of the memory.
    """

    kind: Literal["adamw"] = "adamw"
    rate: float = Field(default=1e-4, gt=0.0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    eight_bit: bool = False

    def make(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        from calotype.training.eight_bit import AdamW8Bit

        kind = AdamW8Bit if self.eight_bit else torch.optim.AdamW
        return kind(
            list(parameters.values()), lr=self.rate, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )


class SGD(Value):
    """Gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    rate: float = Field(default=1e-3, gt=0.0)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)

    def make(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""
        fields = {"lr": self.rate, "momentum": self.momentum, "weight_decay": self.weight_decay}
        return torch.optim.SGD(list(parameters.values()), **fields)  # type: ignore[arg-type]


class Muon(Value):
    """Orthogonalized momentum for matrices, AdamW for the rest: for whole networks that learn from nothing.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.

    Attributes:
        rate: of the matrices; a warm-up and a curve are for both alike.
        matrices: the regular expression that is found in the names of the parameters that Muon moves, if these have two
            dimensions. By default those of numbered blocks.
        kernels: move those of convolutions in the same way, as matrices of output channels by everything else.
        momentum, weight_decay: of the matrices.
        other_rate, betas: of the rest.
    """

    kind: Literal["muon"] = "muon"
    rate: float = Field(default=0.02, gt=0.0)
    matrices: str = r"(^|\.)\w*(blocks|layers)\.\d"
    kernels: bool = False
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    other_rate: float = Field(default=1.2e-3, gt=0.0)
    betas: tuple[Beta, Beta] = (0.9, 0.99)

    def make(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters. Raises `ConfigError` where no name matches `matrices`."""
        from calotype.training.muon import MuonAdamW

        names = set(matching("the trained parameters", self.matrices, list(parameters)))
        chosen = {name for name in names if parameters[name].ndim == 2 or (self.kernels and parameters[name].ndim > 2)}
        if not chosen:
            raise ConfigError(f"optimizer.matrices: of what {self.matrices!r} matches, nothing has two dimensions")
        return MuonAdamW(
            [parameters[name] for name in parameters if name in chosen],
            [parameters[name] for name in parameters if name not in chosen],
            lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay, share=self.other_rate / self.rate,
            betas=self.betas,
        )  # fmt: skip


Optimizer = Annotated[AdamW | SGD | Muon, Field(discriminator="kind")]


class Rate(Value):
    """How the learning rate goes: up over `warmup` steps, then along a curve down to `end` of it.

    Attributes:
        curve: after the warm-up; `"hold"` stays, and goes down in a line over the last half of the steps.
        warmup: how many steps.
        end: the share of the rate that is left at the last step.
    """

    curve: Literal["constant", "linear", "cosine", "hold"] = "constant"
    warmup: int = Field(default=0, ge=0)
    end: float = Field(default=0.0, ge=0.0, le=1.0)

    def factor(self, step: int, steps: int) -> float:
        """What the rate is multiplied by at a step, from 0, of so many."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.curve == "constant":
            return 1.0
        if self.curve == "hold":
            return self.end + (1.0 - self.end) * min(1.0, 2.0 * (1.0 - step / steps))
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
        own = [local(value) for value in self.values.values()]
        torch._foreach_lerp_(own, [local(parameters[name].detach()).float() for name in self.values], 1.0 - decay)
