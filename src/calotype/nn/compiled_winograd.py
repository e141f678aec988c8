"""The convolution by tiles as one operation that a compiler leaves as it is.

It would take apart what is arranged for the processor's caches. Only who compiles needs it.
"""

from typing import Any

import torch
from torch import Tensor

from calotype.nn import winograd
from calotype.nn.compiled_products import one_by_one


@torch.library.custom_op("calotype::convolved", mutates_args=())
def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `calotype.nn.winograd.convolved`."""
    return winograd.convolved(x, weight, bias)


@convolved.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    shape = (len(x), len(weight), *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


@convolved.register_vmap
def _(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    return one_by_one(convolved, info, dims, *args)
