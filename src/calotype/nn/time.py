"""How networks are told the time: scalar timesteps become vectors."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from calotype.nn.activations import ACTIVATIONS


class SinusoidalTime(nn.Module):
    """Sines and cosines of the timestep at geometrically spaced frequencies ("Attention Is All You Need", section 3.5).

    Args:
        channels: the width of the result; an odd one ends in a zero.
        cos_first: cosines before sines. The ecosystem calls it `flip_sin_to_cos`.
        freq_shift: 0 spaces the frequencies so that 1/10000 lies just past the last, 1 so that it is the last.

    The frequencies stay in float32 whatever type the network is converted to: timesteps need the precision.
    """

    frequencies: Tensor

    def __init__(self, channels: int, *, cos_first: bool = True, freq_shift: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.cos_first = cos_first
        self.freq_shift = freq_shift
        self.register_buffer("frequencies", self._frequencies(), persistent=False)

    def forward(self, timesteps: Shaped[Tensor, " b"]) -> Float[Tensor, "b channels"]:
        angles = timesteps.float().unsqueeze(-1) * self.frequencies
        waves = (angles.cos(), angles.sin()) if self.cos_first else (angles.sin(), angles.cos())
        embedding = torch.cat(waves, dim=-1)
        return functional.pad(embedding, (0, 1)) if self.channels % 2 else embedding

    def _frequencies(self) -> Tensor:
        half = self.channels // 2
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - self.freq_shift)
        return torch.exp(exponents)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.frequencies.dtype != torch.float32:
            self.frequencies = self._frequencies().to(self.frequencies.device)
        return self


class GaussianFourierTime(nn.Module):
    """Sines and cosines of the logarithm of the time at random, fixed frequencies ("Score-Based Generative Modeling
    through Stochastic Differential Equations", the NCSN++ networks). Times must be positive.

    The result has twice as many channels as there are frequencies.
    """

    def __init__(self, frequencies: int, *, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(frequencies) * scale, requires_grad=False)

    def forward(self, timesteps: Shaped[Tensor, " b"]) -> Float[Tensor, "b channels"]:
        angles = timesteps.float().log().unsqueeze(-1) * self.weight * (2 * math.pi)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class TimestepEmbedding(nn.Module):
    """The two-layer perceptron that turns a time's waves into the vector that blocks are conditioned on.

    Args:
        act: the activation between the layers.
        condition_channels: the width of a vector that joins the waves (the guidance scale of "On Distillation of
            Guided Diffusion Models"), or `None` for a perceptron without.
    """

    def __init__(
        self, in_channels: int, channels: int, *, act: str = "silu", condition_channels: int | None = None
    ) -> None:
        super().__init__()
        self.act = ACTIVATIONS[act]
        self.linear_1 = nn.Linear(in_channels, channels)
        self.cond_proj = None if condition_channels is None else nn.Linear(condition_channels, in_channels, bias=False)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(
        self, waves: Float[Tensor, "#b in"], condition: Float[Tensor, "#b cond"] | None = None
    ) -> Float[Tensor, "#b channels"]:
        """`condition` is for a perceptron with `condition_channels`, and may be left out."""
        if self.cond_proj is not None and condition is not None:
            waves = waves + self.cond_proj(condition)
        embedding: Tensor = self.linear_2(self.act(self.linear_1(waves)))
        return embedding
