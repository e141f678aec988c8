"""Linear layers whose products run on the kernel that is the fastest on a processor.

For float32 PyTorch takes its BLAS library's product, bfloat16 goes to oneDNN. With many rows oneDNN is the faster for
float32 as well, most of all on processors of another maker than the library's, and it applies an activation while the
numbers are at hand.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.nn.inference import infers

_WORTH = 3 << 22
"""Multiplications below which calling oneDNN takes as long as it spares."""

_PLAIN = (Tensor, nn.Parameter)

_FORM = {"none": "", "gelu": "tanh"}
"""How oneDNN computes each activation that it may be asked for."""

_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available()) and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)


class Linear(nn.Linear):
    """`nn.Linear`, whose product is what `linear` gives, and which may be asked for `gelu` of it (`linear_gelu`)."""

    def forward(self, input: Tensor, gelu: bool = False) -> Tensor:
        held: Mapping[str, Any] = self._parameters
        try:  # `self.weight` is looked for elsewhere first, which takes as long as a small product
            weight, bias = held["weight"], held["bias"]
        except KeyError:  # parametrized
            weight, bias = self.weight, self.bias
        if _is_fast(input, weight):
            return _product(input, weight, bias, "gelu" if gelu else "none")
        fresh = functional.linear(input, weight, bias)
        return _gelu(fresh) if gelu else fresh


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of rows [..., c] and a weight [c2, c], and the bias: [..., c2].

    Many float32 rows on a processor are multiplied by oneDNN. With gradients, or anywhere else, it is PyTorch's own.
    """
    return _product(rows, weight, bias, "none") if _is_fast(rows, weight) else functional.linear(rows, weight, bias)


def linear_gelu(layer: nn.Linear, rows: Tensor) -> Tensor:
    """The Gaussian error linear unit, by its approximation with a hyperbolic tangent, of what a layer gives.

    What is hooked before the layer, as streamed weights are, changes nothing: the numbers are those without it. What is
    hooked after it, as adapters are, is shown what the layer alone gives.
    """
    if type(layer) is Linear and not layer._forward_hooks:  # a packed one is of another class
        both: Tensor = layer(rows, gelu=True)
        return both
    return _gelu(layer(rows))


def _gelu(fresh: Tensor) -> Tensor:
    """Nothing else holds `fresh`: without gradients its memory is taken."""
    if not infers():
        return functional.gelu(fresh, approximate="tanh")
    in_place: Tensor = torch.ops.aten.gelu_.default(fresh, approximate="tanh")
    return in_place


def _is_fast(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.numel() * weight.shape[0] >= _WORTH
        and rows.shape[-1] == weight.shape[1]  # PyTorch's own says what does not fit
        and rows.device.type == "cpu"
        and rows.dtype is torch.float32
        and weight.dtype is torch.float32
        and infers()
        and not torch.is_autocast_enabled("cpu")
        and (torch.compiler.is_compiling() or (is_plain(rows) and is_plain(weight)))
        and _HAS_ONEDNN
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers and nothing else: it is not imagined for a prediction, nor packed."""
    return type(tensor) in _PLAIN


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    if torch.compiler.is_compiling():
        from calotype.nn.compiled_products import linear as whole

        out: Tensor = whole(rows, weight, bias, act, _FORM[act])
        return out
    return onednn(rows, weight, bias, act)


def onednn(rows: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    """The product of oneDNN, and an activation of it or none."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, act, [], _FORM[act])
    return out
