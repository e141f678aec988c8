"""The activation functions that configurations name."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "gelu": functional.gelu,
    "relu": functional.relu,
}
