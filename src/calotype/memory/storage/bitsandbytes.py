"""Precisions that bitsandbytes provides: it packs the weights of linear layers, and its own kernels multiply by them.

`pip install 'calotype[bitsandbytes]'`. What is kept are plain tensors, as of any precision. To decode them takes no
package: it packs, and multiplies.
"""

from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError, WeightsError
from calotype.memory.imagined import is_imagining
from calotype.memory.storage.four import BLOCK, FOUR_BIT_FLOAT, NORMAL_FLOAT, LookedUp
from calotype.memory.storage.precision import Parts, Precision, Shape

OUTLIER = 6.0
"""From this size on, what enters a layer is multiplied as it is ("LLM.int8()", Dettmers et al., 2022, section 3.2)."""


class BitsAndBytes4(LookedUp):
    """One of 16 levels times the largest weight of each block of 64: bitsandbytes' 4-bit types.

    Args:
        kind: what bitsandbytes calls the type, `nf4` or `fp4`.
        levels: what the 16 codes stand for.
    """

    def __init__(self, kind: str, levels: tuple[float, ...]) -> None:
        self.name, self.kind, self.levels = f"bitsandbytes_{kind}", kind, levels

    def encode_rows(self, rows: Tensor) -> Parts:
        functional = _package(self.name, rows.device).functional
        packed, state = functional.quantize_4bit(rows, blocksize=BLOCK, quant_type=self.kind)
        return {"codes": packed.view(len(rows), -1), "absmax": state.absmax.view(len(rows), -1)}

    def product(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        package, codes = _package(self.name, x.device), parts["codes"]
        state = package.functional.QuantState(
            absmax=parts["absmax"].reshape(-1), shape=torch.Size((len(codes), x.shape[-1])), dtype=x.dtype,
            code=torch.tensor(self.levels, device=x.device), blocksize=BLOCK, quant_type=self.kind,
        )  # fmt: skip
        made: Tensor = package.matmul_4bit(x, codes.reshape(-1, 1), state, bias=bias)
        return made

    def problem(self, shape: Shape) -> str:
        if len(shape) == 2 and shape[1] % BLOCK:
            return f"its rows are {shape[1]} long, no multiple of {BLOCK}"
        return _no_linear_layer(shape)


class BitsAndBytes8(Precision):
    """Whole numbers from -127 to 127 times the largest weight of each row, over 127: LLM.int8().

    What enters a layer is rounded to 8 bits too, row by row, but for columns that have a value of 6 or more, which are
    multiplied as they are.
    """

    name, parts = "bitsandbytes_int8", ("codes", "absmax")

    def encode_rows(self, rows: Tensor) -> Parts:
        half = rows.half()
        if not torch.isfinite(half).all():
            raise WeightsError(
                f"a weight is beyond half precision, which {self.name!r} is made from; store it as 'int8'"
            )
        codes, absmax, _ = _package(self.name, rows.device).functional.int8_vectorwise_quant(half)
        return {"codes": codes.masked_fill(absmax[:, None] == 0, 0), "absmax": absmax}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        return parts["codes"].float() * parts["absmax"][:, None] * (1 / 127)

    def row_bytes(self, width: int) -> int:
        return width + 4

    def product(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        functional, codes, absmax = _package(self.name, x.device).functional, parts["codes"], parts["absmax"]
        rows = x.reshape(-1, x.shape[-1])
        most = 0.0 if is_imagining.get() else OUTLIER  # which columns are large is known of numbers alone
        entering, scale, large = functional.int8_vectorwise_quant(rows.half(), threshold=most)
        operators = torch.ops.bitsandbytes
        if large is None or not large.numel():
            made = operators.int8_scaled_mm(entering, codes, scale, absmax, bias=bias, dtype=x.dtype)
        else:
            made, _ = operators.int8_mixed_scaled_mm(rows, entering, codes, scale, absmax, large, bias)
        out: Tensor = made.view(*x.shape[:-1], len(codes))
        return out

    def problem(self, shape: Shape) -> str:
        return _no_linear_layer(shape)


def _no_linear_layer(shape: Shape) -> str:
    return "" if len(shape) == 2 else "bitsandbytes packs the weights of linear layers"


def _package(name: str, device: torch.device) -> Any:
    """The package. Raises `InputError` where it is not there, or knows no such device."""
    try:
        import bitsandbytes
    except ImportError:
        raise InputError(
            f"{name!r} is provided by the package bitsandbytes: pip install 'calotype[bitsandbytes]'; without it there "
            f"is {_OWN[name]!r}"
        ) from None
    known = sorted(bitsandbytes.supported_torch_devices)
    if device.type not in known:
        raise InputError(
            f"{name!r}: bitsandbytes computes on {', '.join(known)}, not on {str(device)!r}; there is {_OWN[name]!r}"
        )
    return bitsandbytes


BITSANDBYTES: tuple[Precision, ...] = (
    BitsAndBytes4("nf4", NORMAL_FLOAT),
    BitsAndBytes4("fp4", FOUR_BIT_FLOAT),
    BitsAndBytes8(),
)
"""The types that bitsandbytes makes, with its defaults."""

_OWN = {"bitsandbytes_nf4": "nf4", "bitsandbytes_fp4": "fp4", "bitsandbytes_int8": "int8"}
