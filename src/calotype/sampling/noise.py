"""Where the fresh noise of stochastic solvers comes from: always given, never the global generator."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calotype.errors import InputError

NoiseSource = Callable[[Tensor], Tensor]
"""Given latents [B, ...], returns standard normal noise of the same shape, dtype and device."""


def per_item(generators: Sequence[torch.Generator]) -> NoiseSource:
    """A source that draws each item's noise from that item's own generator.

    An item therefore gets the same noise whatever batch it is in. Noise is drawn on the generator's device and then
    moved, so that a CPU generator gives the same picture on every device.

    Raises:
        InputError: the batch does not have one item per generator (when drawn from).
    """

    def draw(like: Tensor) -> Tensor:
        if like.shape[0] != len(generators):
            raise InputError(
                f"noise needs one generator per item: got {len(generators)} generators for {like.shape[0]} items"
            )
        return torch.cat([_normal(like[:1], generator) for generator in generators])

    return draw


def shared(generator: torch.Generator | None) -> NoiseSource:
    """A source that draws the noise of a whole batch from one generator; None is torch's own, as in the ecosystem."""
    return lambda like: _normal(like, generator)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)
