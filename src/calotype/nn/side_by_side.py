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

from calotype.nn.inference import infers
from calotype.nn.linear import linear


def can_lie_side_by_side(layers: Sequence[nn.Linear]) -> bool:
    """Whether the weights of layers that take the same input can be one tensor, and their biases another.

    Those that have no numbers here, are packed, or are of several types, cannot.
    """
    return all(_are_alike(several) for several in _weights_and_biases(layers))


@torch.no_grad()
def lay_side_by_side(layers: Sequence[nn.Linear]) -> bool:
    """Move the weights of layers to one tensor, and their biases to another, unless they lie so. Returns whether that
    could be done; where not, all of them stay where they are."""
    if not can_lie_side_by_side(layers):
        return False
    for several in _weights_and_biases(layers):
        if _parts_of_one(several) is None:
            _join([parameter for parameter in several if parameter is not None])
    return True


@torch.no_grad()
def lay_apart(layers: Sequence[nn.Linear]) -> None:
    """Give every layer's weight and bias memory of its own, where they lie side by side."""
    for several in _weights_and_biases(layers):
        if _parts_of_one(several) is not None:
            for parameter in several:
                if parameter is not None:
                    parameter.data = parameter.data.clone()


def products(rows: Float[Tensor, "n c"], layers: Sequence[nn.Linear]) -> list[Float[Tensor, "n _"]]:
    """What each layer gives, from one product where that is possible. Then they are parts of one tensor."""
    both = _whole(layers) if infers() and not torch.compiler.is_compiling() else None
    if both is None:
        return [layer(rows) for layer in layers]
    widths = [layer.out_features for layer in layers]
    return list(linear(rows, *both).split_with_sizes(widths, dim=-1))


def _weights_and_biases(layers: Sequence[nn.Linear]) -> Sequence[Sequence[Tensor | None]]:
    """The layers' weights, then their biases unless no layer has one; None for each that is not there."""
    both = [[layer._parameters.get(name) for layer in layers] for name in ("weight", "bias")]
    return both if any(bias is not None for bias in both[1]) else both[:1]


def _are_alike(parameters: Sequence[Tensor | None]) -> bool:
    """Whether all are there, with numbers in memory, and are of one type, device and width."""
    known = [p for p in parameters if p is not None and not p.is_meta and p.is_contiguous()]
    return len(known) == len(parameters) and len({(p.dtype, p.device, p.shape[1:]) for p in known}) == 1


def _join(parameters: Sequence[Tensor]) -> None:
    """Have the numbers of these parameters lie one after the other."""
    whole = torch.cat([p.data for p in parameters])
    for parameter, part in zip(parameters, whole.split_with_sizes([len(p) for p in parameters]), strict=True):
        parameter.data = part


def _whole(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None] | None:
    """The one weight and bias that those of the layers are parts of; None where they are not, or a layer has hooks."""
    for layer in layers:
        if layer._forward_hooks or layer._forward_pre_hooks:
            return None
    wholes = [_parts_of_one(several) for several in _weights_and_biases(layers)]
    weight, bias = wholes[0], wholes[-1] if len(wholes) > 1 else None
    return None if any(whole is None for whole in wholes) or weight is None else (weight, bias)


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
