"""AdamW whose moments are kept in 8 bits each, in blocks with a scale of their own, in plain operations of any device.

Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022, sections 2.1 and 3. Of the second moment
the root is kept, and what is not 0 is never rounded to it: a step is divided by it.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 256
"""How many numbers share a scale."""
FEWEST = 4096
"""Parameters of fewer numbers keep moments of 32 bits."""
CODED = ("exp_avg", "exp_avg_sq")


class AdamW8Bit(torch.optim.Optimizer):
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, with moments in 8 bits.

    Args:
        parameters: those with fewer than 4096 numbers keep moments of 32 bits.
        lr, betas, eps, weight_decay: as of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "a loss is not computed again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad.float(), group)

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        coded = parameter.numel() >= FEWEST
        if not state:
            state["step"] = torch.zeros(())
            for name in CODED:
                state |= _zeros(name, parameter) if coded else {name: torch.zeros_like(gradient)}
        state["step"] += 1
        count, (first, second) = state["step"].item(), group["betas"]
        mean = decoded(state, "exp_avg", gradient) if coded else state["exp_avg"]
        root = decoded(state, "exp_avg_sq", gradient) if coded else state["exp_avg_sq"].sqrt()
        mean = mean.lerp(gradient, 1.0 - first)
        square = root.square().mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        root = square.sqrt()
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        below = root.div((1.0 - second**count) ** 0.5).add_(group["eps"])
        parameter.addcdiv_(
            mean.to(parameter.dtype), below.to(parameter.dtype), value=-group["lr"] / (1.0 - first**count)
        )
        if coded:
            state |= encoded("exp_avg", mean, signed=True) | encoded("exp_avg_sq", root, signed=False)
        else:
            state["exp_avg"], state["exp_avg_sq"] = mean, square

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from a state; codes, which torch makes numbers of the parameter's type, are codes again."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in CODED:
                if f"{name}_scale" in state:
                    state[name] = state[name].to(torch.uint8)
                    state[f"{name}_scale"] = state[f"{name}_scale"].float()


@cache
def _levels(signed: bool) -> Tensor:
    """The 256 values that a code may stand for, in [-1, 1] or [0, 1], ascending: float32.

    Each decade below 1 is divided evenly, into half as many parts as the one above it.
    """
    decades = 7 if signed else 8
    parts = []
    for decade in range(decades):
        count = 2 ** (decades - 1 - decade)
        even = 0.1 + 0.9 * torch.arange(1, count + 1, dtype=torch.float64) / count
        parts.append(even * 10.0**-decade)
    above = torch.cat(parts).sort().values
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([-above.flip(0), zero, above] if signed else [zero, above]).float()


def encoded(name: str, values: Tensor, *, signed: bool) -> dict[str, Tensor]:
    """Numbers as codes, uint8 of their shape, and the scale of each block: float32."""
    flat = values.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1)
    levels = _levels(signed).to(values.device)
    codes = torch.bucketize(blocks / scale.clamp_min(1e-38)[:, None], (levels[1:] + levels[:-1]) / 2)
    if not signed:
        codes = torch.where(blocks > 0.0, codes.clamp_min(1), codes)
    return {name: codes.to(torch.uint8).flatten()[: len(flat)].view(values.shape), f"{name}_scale": scale}


def decoded(state: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    """The numbers that codes stand for: float32 of the parameter's shape."""
    codes, scale = state[name].flatten(), state[f"{name}_scale"]
    values = _levels(name == "exp_avg").to(like.device)[codes.int()]
    return (values * scale.repeat_interleave(BLOCK)[: len(codes)]).view(like.shape)


def _zeros(name: str, parameter: Tensor) -> dict[str, Tensor]:
    return encoded(name, torch.zeros_like(parameter, dtype=torch.float32), signed=name == "exp_avg")
