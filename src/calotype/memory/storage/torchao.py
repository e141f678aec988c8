"""Precisions that torchao provides: it packs the weights, and its own kernels multiply by them, without decoding.

`pip install 'calotype[quant]'`. What is kept are plain tensors, so that they move, are counted and are saved as those
of any precision; torchao's tensor class is made around them for each product.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError
from calotype.memory.storage.precision import Parts, Precision


class TorchAO(Precision):
    """One of torchao's configurations for the weights of linear layers, with one scale for each row.

    Args:
        name: what `store` calls it.
        config: the name of the configuration in `torchao.quantization`.
    """

    parts = ("codes", "scale")

    def __init__(self, name: str, config: str) -> None:
        self.name, self.config = name, config

    def encode_rows(self, rows: Tensor) -> Parts:
        packed = _packed(self.name, self.config, rows)
        return {"codes": packed.qdata, "scale": packed.scale}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        return parts["codes"].float() * parts["scale"]

    def row_bytes(self, width: int) -> int:
        return width + 4

    def product(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        cls, names, context = _form(self.name, self.config)
        codes, scale = parts["codes"], parts["scale"]
        inner = {"qdata": codes, "scale": scale, "zero_point": torch.zeros_like(scale, dtype=torch.int8)}
        context = {**context, "block_size": [1, codes.shape[1]], "dtype": x.dtype}
        weight = cls.__tensor_unflatten__({name: inner[name] for name in names}, context, None, None)
        return functional.linear(x, weight, bias)


def _packed(name: str, config: str, rows: Tensor) -> Any:
    """Rows as torchao's tensor."""
    quantization = _package(name)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(rows, requires_grad=False)
    quantization.quantize_(layer, getattr(quantization, config)())
    return layer.weight


@functools.cache
def _form(name: str, config: str) -> tuple[Any, tuple[str, ...], dict[str, Any]]:
    """The class of torchao's tensor, the names of its inner ones, and what else it is made of."""
    example = _packed(name, config, torch.ones(16, 16))
    names, context = example.__tensor_flatten__()
    return type(example), tuple(names), context


def _package(name: str) -> Any:
    try:
        import torchao.quantization as quantization
    except ImportError:
        raise InputError(
            f"{name!r} is provided by the package torchao: pip install 'calotype[quant]'; without it there is 'int8'"
        ) from None
    return quantization


TORCHAO = (
    TorchAO("torchao_int8", "Int8WeightOnlyConfig"),
    TorchAO("torchao_int8_dynamic", "Int8DynamicActivationInt8WeightConfig"),
    TorchAO("torchao_float8", "Float8WeightOnlyConfig"),
)
"""Weights in 8 bits; `_dynamic` multiplies whole numbers: what enters a layer is rounded to 8 bits too, row by row."""
