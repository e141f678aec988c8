"""The moving average of what is trained."""

import torch
from torch import nn


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the trained weights, in one call."""
    pairs = [(a, p) for a, p in zip(average.parameters(), model.parameters(), strict=True) if p.requires_grad]
    with torch.no_grad():
        torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)
