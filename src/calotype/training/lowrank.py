"""A low-rank change of a layer while it is trained: factors that gradients reach, run beside the frozen weight.

Sources: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021); "DoRA: Weight-Decomposed Low-Rank
Adaptation" (Liu et al., 2024).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from calotype.adapters.change import LowRank


class LowRankLayer(nn.Module):
    """`up [out, r] @ down [r, in, *kernel]` times `alpha / rank`, in float32, beside one linear layer or convolution.

    The second factor starts at 0, so that training starts from what the layer computes.

    Args:
        layer: stays as it is.
        rank: how many rows the factors share.
        alpha: what the product is multiplied by, over the rank.
        dora: learn the length of each row of the changed weight too.
        dropout: the share of what the layer is given that is left out of the change, in training.
        draw: the first factor is drawn from it.
    """

    down: nn.Parameter
    up: nn.Parameter
    magnitude: nn.Parameter | None

    def __init__(
        self, layer: nn.Module, rank: int, alpha: float, *, dora: bool, dropout: float, draw: torch.Generator
    ) -> None:
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        shape = (rank, *weight.shape[1:])
        bound = 1.0 / math.sqrt(weight[0].numel())
        down = (torch.rand(shape, generator=draw) * 2.0 - 1.0) * bound
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))
        self.magnitude = nn.Parameter(weight.detach().float().flatten(1).norm(dim=1)) if dora else None
        self.scale, self.dropout = alpha / rank, dropout

    def added(self, layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        """The layer's output with the change added."""
        seen = functional.dropout(x, self.dropout, self.training)
        change = self._product(layer, seen).to(out.dtype)
        if self.magnitude is None:
            return torch.add(out, change, alpha=self.scale)
        return (out + self._turned(layer, x, out, change * self.scale)).to(out.dtype)

    def _turned(self, layer: nn.Module, x: Tensor, out: Tensor, change: Tensor) -> Tensor:
        """What lengths of their own for the rows of the changed weight add to the layer's output."""
        assert self.magnitude is not None
        weight: Tensor = layer.weight  # type: ignore[assignment]
        with torch.no_grad():  # the length is taken for a constant (Liu et al., section 4.3)
            turned = weight.float() + (self.up @ self.down.flatten(1)).view(weight.shape) * self.scale
            length = turned.flatten(1).norm(dim=1)
        rows = isinstance(layer, nn.Linear) or out.ndim == 2
        ratio = (self.magnitude / length).view(-1, *(1 for _ in (() if rows else weight.shape[2:])))
        if rows:
            bias: Tensor | None = layer.bias  # type: ignore[assignment]
            plain = out if bias is None else out - bias
        else:
            convolve: Any = layer._conv_forward  # a convolution may be told more than its bias to add
            plain = convolve(x.to(weight.dtype), weight, None)
        added: Tensor = (ratio - 1.0) * plain + ratio * change
        return added

    def _product(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The factors applied to what the layer is given, in their own type."""
        x = x if torch.is_autocast_enabled(x.device.type) else x.to(self.down.dtype)
        if isinstance(layer, nn.Linear) or x.ndim == 2:  # a 1x1 convolution may be given pixels as rows
            return functional.linear(functional.linear(x, self.down.flatten(1)), self.up)
        convolve: Any = layer._conv_forward
        maps: Tensor = convolve(x, self.down, None)
        mixed = torch.matmul(self.up.to(maps.dtype), maps.flatten(2))
        return mixed.view(len(x), -1, *maps.shape[2:])

    def change(self) -> LowRank:
        """What was learned, as adapters are saved."""
        parts = {
            "down": self.down.detach().cpu().clone(),
            "up": self.up.detach().cpu().view(*self.up.shape, *(1 for _ in self.down.shape[2:])).clone(),
        }
        magnitude = None
        if self.magnitude is not None:
            magnitude = self.magnitude.detach().cpu().view(-1, 1).clone()
        return LowRank(parts, self.scale, magnitude)


def attach_trained(layer: nn.Module, change: LowRankLayer) -> RemovableHandle:
    """Run a change beside a layer from now on."""

    def add(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return change.added(layer, args[0], out)

    return layer.register_forward_hook(add)
