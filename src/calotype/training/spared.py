"""Keeping less for the backward pass than autograd would, with the same gradients, put around layers from outside.

Autograd keeps the input of every convolution, also of a frozen one, whose gradient needs the weight alone; it keeps
what a normalisation gives beside what it was given, from which it follows; and of a gated layer it keeps the opened
gate beside what was opened. Here each of these is kept once. Only what takes no product is computed again.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from calotype.nn.convolution import Conv2d, convolved, gradient_of_map
from calotype.nn.normalization import GroupNorm
from calotype.nn.transformer import GatedLinear

_CONVOLUTIONS = (Conv2d, nn.Conv2d)
_NORMS = (GroupNorm, nn.GroupNorm, nn.LayerNorm)


@contextmanager
def spared(networks: Iterable[nn.Module]) -> Iterator[int]:
    """Keep less of what networks compute while the context lasts; gives how many layers do.

    Layers of other classes than these, such as packed ones, and those that something else was put around, stay as they
    are.
    """
    results = _Results()
    layers = dict.fromkeys(layer for network in networks for layer in network.modules())
    changed = [layer for layer in layers if "forward" not in vars(layer) and _spare(layer, results)]
    try:
        with saved_tensors_hooks(results.packed, _unpacked):
            yield len(changed)
    finally:
        for layer in changed:
            del layer.forward


def _spare(layer: nn.Module, results: "_Results") -> bool:
    """Put around a layer what keeps less, where there is something."""
    made: Callable[..., Tensor]
    if type(layer) in _CONVOLUTIONS and isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
        made = partial(_convolved, layer, layer.forward)
    elif type(layer) in _NORMS:
        made = partial(results.normalised, layer, layer.forward)
    elif type(layer) is GatedLinear:
        made = partial(_gated, layer)
    else:
        return False
    vars(layer)["forward"] = made
    return True


# -- convolutions ------------------------------------------------------------------------------------------------------


class _Convolution(torch.autograd.Function):
    """A convolution with a frozen weight: all that its backward pass needs of the map is its shape. Nothing asks for
    gradients of either pass, so that small maps take the short way of inference in both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.layer, ctx.shape = layer, x.shape
        return convolved(layer, x, weight, bias, in_tiles=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        of_map, _, of_bias, _ = ctx.needs_input_grad
        towards = gradient_of_map(ctx.layer, grad, weight, ctx.shape) if of_map else None
        return towards, None, grad.sum((0, 2, 3)) if of_bias else None, None


def _convolved(
    layer: nn.Conv2d, plain: Callable[..., Tensor], x: Tensor, shift: Tensor | None = None, **more: Any
) -> Tensor:
    weight = layer.weight
    infers = not torch.is_grad_enabled()
    if infers or weight.requires_grad or x.ndim != 4 or torch.is_autocast_enabled(x.device.type) or more:
        return plain(x, **more) if shift is None else plain(x, shift, **more)
    bias = layer.bias
    if shift is not None:  # joins the bias, as in the layer itself
        bias = shift.view(-1) if bias is None else bias + shift.view(-1)
    out: Tensor = _Convolution.apply(x, weight, bias, layer)  # type: ignore[no-untyped-call]
    return out


# -- gates -------------------------------------------------------------------------------------------------------------


class _Gated(torch.autograd.Function):
    """Values times the opened gate, which is opened again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        values, gate = both.chunk(2, dim=-1)
        return functional.gelu(gate).mul_(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        values, gate = both.chunk(2, dim=-1)
        towards = torch.empty_like(both)
        of_values, of_gate = towards.chunk(2, dim=-1)
        torch.mul(grad, functional.gelu(gate), out=of_values)
        of_gate.copy_(torch.ops.aten.gelu_backward(grad * values, gate))
        return towards


def _gated(layer: GatedLinear, rows: Tensor) -> Tensor:
    both = layer.proj(rows)
    if not both.requires_grad:
        values, gate = both.chunk(2, dim=-1)
        return functional.gelu(gate).mul_(values)
    out: Tensor = _Gated.apply(both)  # type: ignore[no-untyped-call]
    return out


# -- normalisations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """A tensor that is kept as it is."""

    tensor: Tensor
    version: int


class _Result:
    """What a normalisation gave, as how to have it again: what it is made of is kept for its own gradient anyhow."""

    def __init__(self, layer: Any, x: Tensor) -> None:
        self._layer = layer
        self._given = [t if t is None else _Kept(t.detach(), t._version) for t in (x, layer.weight, layer.bias)]
        kind = x.device.type
        self._autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._again: Tensor | None = None
        self.users = 0

    @torch.no_grad()
    def taken(self) -> Tensor:
        """The result for one of those that need it; the last one lets go of it."""
        result = self._again if self._again is not None else self._made()
        self.users -= 1
        self._again = result if self.users > 0 else None
        return result

    def _made(self) -> Tensor:
        kind, dtype, enabled = self._autocast
        layer = self._layer
        x, weight, bias = (kept if kept is None else _unpacked(kept) for kept in self._given)
        assert x is not None
        with torch.autocast(kind, dtype=dtype, enabled=enabled):
            if isinstance(layer, nn.GroupNorm):
                return functional.group_norm(x, layer.num_groups, weight, bias, layer.eps)
            return functional.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)


@dataclass(frozen=True)
class _View:
    """A tensor in the place of a result, not kept."""

    result: _Result
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Results:
    """Knows what normalisations gave, as long as it is there."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], torch.dtype, int, _Result]] = {}

    def normalised(self, layer: nn.Module, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A normalisation, whose result is remembered as how to have it again."""
        out = plain(x)
        if torch.is_grad_enabled() and out.requires_grad and type(x) is Tensor and x.is_contiguous():
            storage = out.untyped_storage()
            key = storage._cdata
            gone = weakref.ref(storage, lambda _: self._known.pop(key, None))
            self._known[key] = gone, out.dtype, out._version, _Result(layer, x)
        return out

    def packed(self, tensor: Tensor) -> Any:
        """What is kept of a tensor that gradients need."""
        known = self._known.get(tensor.untyped_storage()._cdata) if type(tensor) is Tensor else None
        if known is None or known[1:3] != (tensor.dtype, tensor._version):  # such as complex numbers made of pairs
            return _Kept(tensor, tensor._version)
        result = known[3]
        result.users += 1
        return _View(result, tensor.size(), tensor.stride(), int(tensor.storage_offset()))


def _unpacked(packed: Any) -> Tensor:
    """The tensor. Raises `RuntimeError` where one that gradients need was written to, as autograd itself does."""
    if isinstance(packed, _View):
        return packed.result.taken().as_strided(packed.size, packed.stride, packed.offset)
    tensor: Tensor = packed.tensor
    if tensor._version != packed.version:  # autograd itself no longer looks
        raise RuntimeError(
            f"a tensor of shape {list(tensor.shape)} that gradients need was changed in place after it was kept"
        )
    return tensor
