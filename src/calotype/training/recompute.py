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
    before = [list(value) if isinstance(value, list) else value for value in args]
    turns = iter((args,))

    def run(*given: Any, **more: Any) -> Any:
        """The block; its second time with lists as they were, which blocks take from and add to."""
        own = next(turns, None)
        return forward(*(own or [list(value) if isinstance(value, list) else value for value in before]), **more)

    return checkpoint(run, *args, use_reentrant=False, **kwargs)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks_of(child)
