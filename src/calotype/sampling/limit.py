"""Limits on a predicted clean sample: clipping and dynamic thresholding."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Limit(Protocol):
    """Keeps a predicted clean sample [B, ...] in range."""

    def __call__(self, clean: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Clip:
    """Clips to [-range, range]."""

    range: float = 1.0

    def __call__(self, clean: Tensor) -> Tensor:
        return clean.clamp(-self.range, self.range)


@dataclass(frozen=True)
class DynamicThreshold:
    """Per item: clips to the `ratio` quantile of the magnitudes, which is kept in [1, maximum], and divides by it.

    Source: Saharia et al., "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
    section 2.3.
    """

    ratio: float = 0.995
    maximum: float = 1.0

    def __call__(self, clean: Tensor) -> Tensor:
        magnitudes = clean.flatten(1).abs()
        bound = torch.quantile(magnitudes, self.ratio, dim=1).clamp(min=1.0, max=self.maximum)
        bound = bound.reshape(-1, *[1] * (clean.ndim - 1))
        return torch.minimum(torch.maximum(clean, -bound), bound) / bound
