"""Muon for matrices and AdamW for everything else, in few large operations so that a CPU keeps up."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalize(matrices: Tensor, steps: int = 4) -> Tensor:
    """The nearest semi-orthogonal matrix of each of [n, rows, columns], roughly, by Newton-Schulz iteration.

    Quintic coefficients of Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    nearest: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return nearest


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized. Weights of one shape are stacked and updated together."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for same in by_shape.values():
                self._update(same, group)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._momentum(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        # Nesterov: look one step ahead along the momentum.
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
        stacked = torch.stack([update.flatten(1) for update in ahead])
        scale = max(1.0, stacked.shape[-2] / stacked.shape[-1]) ** 0.5
        updates = orthogonalize(stacked)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        shaped = [update.view_as(parameter) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-group["lr"] * scale)


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the trained weights, in one call."""
    pairs = [(a, p) for a, p in zip(average.parameters(), model.parameters(), strict=True) if p.requires_grad]
    with torch.no_grad():
        torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)
