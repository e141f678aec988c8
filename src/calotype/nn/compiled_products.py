"""The product of oneDNN as one operation that a compiler leaves as it is.

It would look for weights that never change. Only who compiles needs it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_NAME = "calotype::linear"

# not `custom_op`, which looks at every argument and result in Python: of a product of 7 ms that took 0.2 ms
torch.library.define(_NAME, "(Tensor rows, Tensor weight, Tensor? bias, str act, str form) -> Tensor")


@torch.library.impl(_NAME, "cpu")
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, act: str, form: str) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, act, [], form)
    return out


@torch.library.register_fake(_NAME)  # type: ignore[untyped-decorator]
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, act: str, form: str) -> Tensor:
    return rows.new_empty((*rows.shape[:-1], len(weight)))


linear: Callable[..., Tensor] = torch.ops.calotype.linear.default
"""As `calotype.nn.linear.onednn`, of an activation in a form."""


def one_by_one(
    operation: Callable[..., Tensor], info: Any, dims: tuple[int | None, ...], *args: Any
) -> tuple[Tensor, int]:
    """An operation repeated over a further dimension of its arguments, as `torch.vmap` asks: one call for each part."""
    parts = (
        [arg if dim is None else arg.select(dim, index) for arg, dim in zip(args, dims, strict=True)]
        for index in range(info.batch_size)
    )
    return torch.stack([operation(*part) for part in parts]), 0


@torch.library.register_vmap(_NAME)  # type: ignore[untyped-decorator]
def _(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    return one_by_one(linear, info, dims, *args)
