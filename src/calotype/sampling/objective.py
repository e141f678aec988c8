"""Guidance by an objective: the gradient of a number that a step's clean sample is to lower.

The general form of guidance by a classifier (Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis",
2021, algorithm 2): with `x = alpha * clean + sigma * noise` and an objective L of the predicted clean sample, the noise
becomes `noise + sigma * dL/dx`, so that the clean sample becomes `clean - sigma^2 / alpha * dL/dx`. The gradient goes
through the network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.memory.imagined import has_data
from calotype.sampling.collate import leaves_of, map_leaves
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.levels import Level
from calotype.sampling.moves import Mix


def gradient(
    latents: Any, reading: Mix, predict: Callable[[Any], Any], objectives: Sequence[tuple[str, Callable[..., Any]]]
) -> tuple[Any, list[Tensor | None]]:
    """The positive prediction, and the gradient of the objectives' sum by each part of the latents.

    Args:
        latents: [b, ...], before the network's scale.
        reading: the weights that give the clean sample.
        predict: the network's positive output for latents.
        objectives: by name, from the latents and the clean sample to one number for each item [b] or one for all; None
            where an objective leaves the step alone.

    Raises:
        InputError: an objective does not depend on the clean sample, or is not finite.
    """
    with torch.enable_grad():
        x = map_leaves(lambda t: t.detach().requires_grad_(), latents)
        output = predict(x)
        clean = map_leaves(lambda t, out: Predictions({"positive": out}, t, reading).clean("positive"), x, output)
        values = [_checked(name, value) for name, fn in objectives if (value := fn(x, clean)) is not None]
        total: Tensor | None = sum(values[1:], values[0]) if values else None
        parts = leaves_of(x)
        found = [None] * len(parts) if total is None else torch.autograd.grad(total, parts, allow_unused=True)
    return map_leaves(lambda t: t.detach(), output), list(found)


def lowered(output: Tensor, gradient: Tensor | None, level: Level, reading: Mix) -> Tensor:
    """A prediction [b, ...] moved against the gradient; as it is at a level without signal, where no clean sample is
    told apart from another."""
    if gradient is None or not level.alpha or not reading.output:
        return output
    channels = gradient.shape[1]
    shift = gradient.float() * (-(level.sigma**2) / level.alpha / reading.output)
    moved = output[:, :channels] + shift.to(output.dtype)
    return moved if output.shape[1] == channels else torch.cat([moved, output[:, channels:]], dim=1)


def _checked(name: str, value: Tensor) -> Tensor:
    if not value.requires_grad:
        raise InputError(f"the objective {name} does not depend on the clean sample, so it has no gradient")
    if has_data(value) and not bool(value.isfinite().all()):
        raise InputError(f"the objective {name} must be a finite number, got {value.detach().flatten()[:4].tolist()}")
    return value.sum()
