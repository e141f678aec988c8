"""Computing activations again in the backward pass instead of keeping them, put around a network's blocks from outside.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(network: nn.Module) -> Iterator[int]:
    """Keep no activations inside a network's blocks while the context lasts; gives how many blocks there are.

    Blocks are the members of the outermost lists of modules, which is how networks here and in the ecosystem repeat
    layers.
    """
    blocks = list(blocks_of(network))
    for block in blocks:
        block.forward = partial(_again, block.forward)
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.forward


def _again(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    kept = [_copied(value) for value in args]

    def run(*given: Any, **more: Any) -> tuple[Any, list[Any]]:
        """The block on lists of its own, which it may take from and add to, and what it made of them."""
        own = [_copied(value) for value in given]
        return forward(*own, **more), [value for value in own if isinstance(value, list)]

    out, after = checkpoint(run, *kept, use_reentrant=False, **kwargs)
    for value, made in zip([value for value in args if isinstance(value, list)], after, strict=True):
        value[:] = made
    return out


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks_of(child)
