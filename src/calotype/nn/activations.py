"""The activation functions that configurations name."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from calotype.nn.inference import infers

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "gelu": functional.gelu,
    "relu": functional.relu,
}

_IN_PLACE = frozenset({functional.silu, functional.mish, functional.relu})


def activated(act: Callable[..., Tensor], fresh: Tensor) -> Tensor:
    """`act` of a tensor that nothing else holds: without gradients its memory is taken for the result."""
    in_place = act in _IN_PLACE and infers()
    return act(fresh, inplace=True) if in_place else act(fresh)


def added(fresh: Tensor, x: Tensor) -> Tensor:
    """`x + fresh`. Nothing else holds `fresh`, so that without gradients its memory is taken for the sum."""
    return fresh.add_(x) if infers() else x + fresh
