"""The product of oneDNN as one operation that a compiler leaves as it is.

It would look for weights that never change. Only who compiles needs it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("calotype::linear", mutates_args=())
def linear(rows: Tensor, weight: Tensor, bias: Tensor | None, act: str, form: str) -> Tensor:
    """As `calotype.nn.linear.onednn`, of an activation in a form."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, act, [], form)
    return out


@linear.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, act: str, form: str) -> Tensor:
    return rows.new_empty((*rows.shape[:-1], len(weight)))


def one_by_one(
    operation: Callable[..., Tensor], info: Any, dims: tuple[int | None, ...], *args: Any
) -> tuple[Tensor, int]:
    """An operation repeated over a further dimension of its arguments, as `torch.vmap` asks: one call for each part."""
    parts = (
        [arg if dim is None else arg.select(dim, index) for arg, dim in zip(args, dims, strict=True)]
        for index in range(info.batch_size)
    )
    return torch.stack([operation(*part) for part in parts]), 0


@linear.register_vmap
def _(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    return one_by_one(linear, info, dims, *args)
