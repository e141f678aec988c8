"""Muon for matrices and AdamW for everything else as one optimizer, in few large operations so that a CPU keeps up."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


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


class MuonAdamW(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for matrices; those of one shape are stacked and updated together.

    Args:
        matrices: parameters of two dimensions or more, the first being rows. They are moved by Muon.
        others: moved by AdamW.
        lr: of the matrices.
        momentum, weight_decay: of the matrices.
        share: the rate of the others over `lr`. Who changes the rate of a group multiplies with its `share`.
        betas, eps, other_decay: of the others.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter] = (),
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        share: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        other_decay: float = 0.0,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "matrices": True, "share": 1.0, "lr": lr, "momentum": momentum,
             "weight_decay": weight_decay},
            {"params": list(others), "matrices": False, "share": share, "lr": lr * share, "betas": betas, "eps": eps,
             "weight_decay": other_decay},
        ]  # fmt: skip
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "a loss is not computed again"
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not group.get("matrices", True):
                self._adamw(moved, group)
                continue
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in moved:
                by_shape[parameter.shape].append(parameter)
            for same in by_shape.values():
                self._muon(same, group)

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._state(parameter, "momentum") for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])  # Nesterov: one step along the momentum
        stacked = torch.stack([update.flatten(1) for update in ahead])
        scale = max(1.0, stacked.shape[-2] / stacked.shape[-1]) ** 0.5
        updates = orthogonalize(stacked)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        shaped = [update.view_as(parameter) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-group["lr"] * scale)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [self._state(parameter, "exp_avg") for parameter in parameters],
            [self._state(parameter, "exp_avg_sq") for parameter in parameters],
            [],
            [self._count(parameter) for parameter in parameters],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, parameter: Tensor, name: str) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]

    def _count(self, parameter: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        return state.setdefault("step", torch.zeros(()))
