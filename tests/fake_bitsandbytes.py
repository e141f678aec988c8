"""What the package bitsandbytes does with the numbers that it is given here, in plain PyTorch.

The package takes seconds to import and brings programs for every kind of GPU, so that most tests do without; that it
gives the same is tested where it is installed.
"""

import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.memory.storage import PRECISIONS


@dataclass
class QuantState:
    absmax: Tensor
    shape: torch.Size
    code: Tensor
    blocksize: int
    quant_type: str
    dtype: torch.dtype


def quantize_4bit(rows: Tensor, blocksize: int, quant_type: str) -> tuple[Tensor, QuantState]:
    assert blocksize == 64
    made = PRECISIONS[quant_type].encode_rows(rows)
    levels = torch.tensor(PRECISIONS[quant_type].levels)
    state = QuantState(made["absmax"].reshape(-1), rows.shape, levels, blocksize, quant_type, rows.dtype)
    return made["codes"].reshape(-1, 1), state


def matmul_4bit(x: Tensor, packed: Tensor, state: QuantState, bias: Tensor | None = None) -> Tensor:
    assert packed.shape == (state.shape.numel() // 2, 1) and state.absmax.ndim == 1
    parts = {"codes": packed.view(state.shape[0], -1), "absmax": state.absmax.view(state.shape[0], -1)}
    weight = PRECISIONS[state.quant_type].decode(parts, tuple(state.shape), x.dtype)
    return torch.nn.functional.linear(x, weight, bias)


def int8_vectorwise_quant(rows: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    assert rows.ndim == 2 and rows.dtype == torch.float16
    large = rows.abs() >= threshold if threshold else torch.zeros_like(rows, dtype=torch.bool)
    rest = rows.masked_fill(large, 0).float()
    absmax = rest.abs().amax(dim=1)
    codes = (rest * (127 / absmax[:, None])).nan_to_num().round().to(torch.int8)
    if not threshold:
        return codes, absmax, None
    columns = large.any(dim=0).nonzero().view(-1)
    return codes.index_fill(1, columns, 0), absmax, columns


def int8_scaled_mm(a: Tensor, b: Tensor, row: Tensor, column: Tensor, bias: Any = None, dtype: Any = None) -> Tensor:
    made = (a.float() @ b.float().t()) * (row[:, None] * column) / 127**2
    return (made if bias is None else made + bias).to(dtype)


def int8_mixed_scaled_mm(
    x: Tensor, a: Tensor, b: Tensor, row: Tensor, column: Tensor, large: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    beside = (b[:, large].float() * column[:, None] / 127).to(x.dtype)
    return int8_scaled_mm(a, b, row, column, bias, x.dtype) + x[:, large] @ beside.t(), x[:, large]


def install(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Have it imported as the package."""
    package: Any = types.ModuleType("bitsandbytes")
    package.supported_torch_devices = {"cpu", "cuda"}
    package.matmul_4bit = matmul_4bit
    package.functional = types.SimpleNamespace(
        QuantState=QuantState, quantize_4bit=quantize_4bit, int8_vectorwise_quant=int8_vectorwise_quant
    )
    operators = types.SimpleNamespace(int8_scaled_mm=int8_scaled_mm, int8_mixed_scaled_mm=int8_mixed_scaled_mm)
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setattr(torch.ops, "bitsandbytes", operators, raising=False)
    return package  # type: ignore[no-any-return]
