"""Low-rank changes of a network's layers that one call runs, and no other.

The network keeps nothing of them. While a call is within `running_beside`, each changed layer has a hook, which does
nothing in what other threads compute meanwhile.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError

Pair: TypeAlias = tuple[Tensor, Tensor]
"""A layer's change: `down [r, in]` and `up [out, r]`, whose product is added to the weight."""

_WITHIN: ContextVar[object] = ContextVar("changes that run beside layers", default=None)


def running_beside(
    network: nn.Module, changes: Sequence[tuple[Mapping[str, Pair], float]]
) -> AbstractContextManager[None]:
    """Run changes of linear layers, by name and each at its weight, in what this thread computes meanwhile. They must
    fit (`check_fits`)."""
    return _running(network, changes) if changes else nullcontext()


def is_running_beside() -> bool:
    """Whether changes run beside layers in what this thread computes now."""
    return _WITHIN.get() is not None


@contextmanager
def _running(network: nn.Module, changes: Sequence[tuple[Mapping[str, Pair], float]]) -> Iterator[None]:
    mine = object()
    with ExitStack() as hooks:
        for pairs, weight in changes:
            for name, (down, up) in pairs.items() if weight else ():
                handle = network.get_submodule(name).register_forward_hook(_adding(mine, down, up, weight))
                hooks.callback(handle.remove)
        before = _WITHIN.set(mine)
        try:
            yield
        finally:
            _WITHIN.reset(before)


def check_fits(network: nn.Module, pairs: Mapping[str, Pair]) -> None:
    """Raise `InputError` where changes are of layers that a network has not, or has in another shape."""
    owner = type(network).__name__
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    if lost := [name for name in pairs if name not in layers]:
        raise InputError(
            f"{len(lost)} of the {len(pairs)} layers that this adapter changes are not in this {owner}, {lost[0]!r} is "
            "one; it was made for another network"
        )
    for name, (down, up) in pairs.items():
        layer = layers[name]
        if (up.shape[0], down.shape[1]) != (layer.out_features, layer.in_features):
            raise InputError(
                f"this adapter changes {name!r} as a layer of {down.shape[1]} to {up.shape[0]} numbers, and in this "
                f"{owner} it is one of {layer.in_features} to {layer.out_features}; it was made for another network"
            )


def _adding(mine: object, down: Tensor, up: Tensor, weight: float) -> Any:
    def add(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if _WITHIN.get() is not mine:
            return None
        x = args[0]
        few = functional.linear(x, down.to(x.device, x.dtype))
        return torch.add(out, functional.linear(few, up.to(x.device, x.dtype)), alpha=weight)

    return add
