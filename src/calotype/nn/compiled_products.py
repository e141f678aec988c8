"""The product of oneDNN as one operation that a compiler leaves as it is.

It would look for weights that never change. Only who compiles needs it.
"""

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
