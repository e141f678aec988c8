"""What runs in every forward pass of an adapted layer: the adapters' part, added to what the layer computes.

All adapters of a layer are one low-rank pair, their factors stacked along the rank, so that three cost two matrix
products as one does. What has no low rank (LoHa, LoKr, DoRA) is one matrix of the weight's shape. Both are buffers that
are never saved, so that they move with the layer.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from calotype.adapters.change import Change, LowRank
from calotype.nn.active_adapters import running_alone
from calotype.nn.inference import infers

DOWN, UP, DENSE, BIAS, RANKS = "adapter_down", "adapter_up", "adapter_dense", "adapter_bias", "adapter_ranks"
ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose weight and bias are not read by their own forward alone, so that nothing can run beside them: they are
exchanged while an adapter runs."""


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight, which is not decoded for it where it is packed (`calotype.memory.storage`)."""
    packed: tuple[int, ...] | None = getattr(layer, "weight_shape", None)
    return tuple(layer.weight.shape) if packed is None else packed  # type: ignore[arg-type]


def is_packed(layer: nn.Module) -> bool:
    """Whether a layer's weight is packed, and so cannot be written to."""
    return getattr(layer, "weight_shape", None) is not None


class Stack(NamedTuple):
    """All adapters of one layer: `down [r, in, *kernel]`, `up [r, out]` with scale and weight, what is dense, what is
    added to every output `[out]`, and by name which of the r rows are an adapter's."""

    down: Tensor | None
    up: Tensor | None
    dense: Tensor | None
    bias: Tensor | None
    ranks: Mapping[str, slice]


def stacked(
    layer: nn.Module, changes: Mapping[str, tuple[Change, float]], weight: Callable[[], Tensor] | None = None
) -> Stack:
    """The changes of a layer, by the adapter, at their weights: computed in float32, then of the layer's type and
    device.

    `weight` returns the layer's weight where that is not in memory now; only changes that depend on it (DoRA) ask. A
    packed weight is decoded here once: for those, and for its type.
    """
    base: Tensor = layer.weight  # type: ignore[assignment]
    low = [(c, w) for c, w in changes.values() if is_low_rank(c)]
    others = [(c, w) for c, w in changes.values() if not is_low_rank(c)]
    ends = list(accumulate((c.rank for c, _ in low), initial=0))
    named = [name for name, (c, _) in changes.items() if is_low_rank(c)]
    ranks = {name: slice(*span) for name, span in zip(named, pairwise(ends), strict=True)}
    real = base if weight is None or not others else weight()
    rest = [c.dense(real, w) for c, w in others]
    biases = [w * c.bias.float() for c, w in changes.values() if c.bias is not None]
    bias = torch.stack(biases).sum(0).to(base) if biases else None
    down = up = dense = None
    if low:
        kernel = base.shape[2:]
        down = torch.cat([c.down().reshape(c.rank, -1, *kernel) for c, _ in low]).to(base)
        up = torch.cat([c.up() * w for c, w in low], dim=1).t().contiguous().to(base)
    if rest:
        dense = torch.stack(rest).sum(0).to(base)
    return Stack(down, up, dense, bias, ranks)


def is_low_rank(change: Change) -> TypeGuard[LowRank]:
    """Whether a change runs as two small factors."""
    return isinstance(change, LowRank) and change.magnitude is None


def is_separable(change: Change) -> bool:
    """Whether a change can be left out on some branches of guidance, where others run."""
    return is_low_rank(change) and change.bias is None


def attach(layer: nn.Module, stack: Stack) -> RemovableHandle:
    """Add a stack to what a layer computes from now on. The handle takes it away, with `detach`."""
    for name, tensor in ((DOWN, stack.down), (UP, stack.up), (DENSE, stack.dense), (BIAS, stack.bias)):
        if tensor is not None:
            layer.register_buffer(name, tensor, persistent=False)
    layer.__dict__[RANKS] = stack.ranks
    return layer.register_forward_hook(_add)


def detach(layer: nn.Module, handle: RemovableHandle) -> None:
    """Leave a layer as it was before `attach`."""
    handle.remove()
    layer.__dict__.pop(RANKS, None)
    for name in (DOWN, UP, DENSE, BIAS):
        if name in layer._buffers:
            delattr(layer, name)


def _add(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """The layer's output with the adapters' part added; in place where no gradient is asked for."""
    x, buffers = args[0], layer._buffers
    down, up, dense, bias = (buffers.get(name) for name in (DOWN, UP, DENSE, BIAS))
    rows = isinstance(layer, nn.Linear) or x.ndim == 2  # a 1x1 convolution may be given pixels as rows
    if bias is not None:
        out = out + (bias if rows else bias.view(-1, *(1 for _ in out.shape[2:])))
    if (alone := running_alone()) is not None and down is not None and up is not None:
        down, up = _of(layer.__dict__[RANKS], alone, down, up)
    if rows:
        if down is not None and up is not None:
            inner = functional.linear(x, down.flatten(1)).reshape(-1, len(down))
            out = _plus_product(out, inner, up)
        return out if dense is None else out + functional.linear(x, dense.flatten(1))
    convolve: Any = layer._conv_forward
    if down is not None and up is not None:
        maps = convolve(x, down, None)
        mixed = torch.matmul(up.t(), maps.flatten(2)).view(out.shape)
        out = out.add_(mixed) if infers() else out + mixed
    return out if dense is None else out + convolve(x, dense, None)


def _of(
    ranks: Mapping[str, slice], alone: frozenset[str], down: Tensor, up: Tensor
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The factors of some adapters; those of one, or of all, are not copied."""
    rows = [ranks[name] for name in ranks if name in alone]
    if len(rows) == len(ranks):
        return down, up
    if not rows:
        return None, None
    if len(rows) == 1:
        return down[rows[0]], up[rows[0]]
    return torch.cat([down[r] for r in rows]), torch.cat([up[r] for r in rows])


def _plus_product(out: Tensor, rows: Tensor, up: Tensor) -> Tensor:
    alike = out.dtype == rows.dtype == up.dtype  # under autocast they are not
    if not infers() or not out.is_contiguous() or not alike:
        return out + (rows @ up).view(out.shape)
    out.view(-1, out.shape[-1]).addmm_(rows, up)
    return out
