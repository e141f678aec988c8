"""Linear layers of one input whose weights lie side by side in memory, so that one product gives what all of them give.

The layers stay what they are: each weight, under its own name, is a part of a larger tensor. So nothing has to be
undone to save them, adapt them or exchange their weights, and no second copy is kept. Where the weights lie apart
again, as whoever moves or exchanges some of them leaves them, or where something listens to a layer, every layer
computes for itself.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.nn.linear import linear


@torch.no_grad()
def lay_side_by_side(layers: Sequence[nn.Linear]) -> bool:
    """Move the weights of layers that take the same input to one tensor, and their biases to another. Returns whether
    that could be done: not for weights that have no numbers here, are packed, or are of several types."""
    weights = [layer._parameters.get("weight") for layer in layers]
    biases = [layer._parameters.get("bias") for layer in layers]
    done = _joined(weights)
    if done and all(bias is not None for bias in biases):
        return _joined(biases)
    return done and not any(bias is not None for bias in biases)


@torch.no_grad()
def lay_apart(layers: Sequence[nn.Linear]) -> None:
    """Give every layer's weight and bias memory of its own."""
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.clone()


def products(rows: Float[Tensor, "n c"], layers: Sequence[nn.Linear]) -> list[Float[Tensor, "n _"]]:
    """What each layer gives, from one product where that is possible. Then they are parts of one tensor."""
    both = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else _whole(layers)
    if both is None:
        return [layer(rows) for layer in layers]
    widths = [layer.out_features for layer in layers]
    return list(linear(rows, *both).split_with_sizes(widths, dim=-1))


def _joined(parameters: Sequence[Tensor | None]) -> bool:
    """Have the numbers of these parameters lie one after the other."""
    known = [p for p in parameters if p is not None and not p.is_meta and p.is_contiguous()]
    alike = len({(p.dtype, p.device, p.shape[1:]) for p in known}) == 1
    if len(known) < len(parameters) or not alike:
        return False
    whole = torch.cat([p.data for p in known])
    for parameter, part in zip(known, whole.split_with_sizes([len(p) for p in known]), strict=True):
        parameter.data = part
    return True


def _whole(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None] | None:
    """The one weight and bias that those of the layers are parts of; None where they are not, or a layer has hooks."""
    for layer in layers:
        if layer._forward_hooks or layer._forward_pre_hooks:
            return None
    weight = _parts_of_one([layer._parameters.get("weight") for layer in layers])
    if weight is None:
        return None
    biases = [layer._parameters.get("bias") for layer in layers]
    if not any(bias is not None for bias in biases):
        return weight, None
    bias = _parts_of_one(biases)
    return None if bias is None else (weight, bias)


def _parts_of_one(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The tensor whose rows these are, one after the other in memory that belongs to it; None where they are not."""
    first = parts[0]
    if type(first) is not nn.Parameter or first.is_meta:  # packed, or imagined for a prediction
        return None
    place, kind, rows = first.data_ptr(), first.dtype, 0
    for part in parts:
        if part is None or part.data_ptr() != place or part.dtype is not kind or not part.is_contiguous():
            return None
        rows += len(part)
        place += part.nbytes
    if first.untyped_storage().data_ptr() + first.untyped_storage().nbytes() < place:
        return None  # neighbours by chance
    return first.as_strided((rows, *first.shape[1:]), first.stride())
