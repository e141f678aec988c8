"""One byte a weight: 8-bit floats and integers, with one scale for each row."""

import torch
from torch import Tensor

from calotype.memory.storage.precision import Parts, Precision, scale_to

_LEVELS = 127
_LEAST_EXPONENT = -100


class Float8(Precision):
    """Floats of 8 bits ("FP8 Formats for Deep Learning", Micikevicius et al., 2022) times a power of two for each row.

    The power brings the row's largest value into the upper half of the type's range. It costs nothing in accuracy, and
    a weight that is of this type already is kept as it is, bit for bit. With `m` bits of mantissa an error is at most
    2^-(m + 1) of the weight itself, 1/16 for `float8_e4m3fn` and 1/8 for `float8_e5m2`, or half of the smallest step.
    """

    parts = ("codes", "scale")

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.name = dtype, str(dtype).removeprefix("torch.")

    def encode_rows(self, rows: Tensor) -> Parts:
        mantissa, exponent = torch.frexp(scale_to(rows, torch.finfo(self.dtype).max))
        exponent = torch.where(mantissa == 0.5, exponent - 1, exponent).clamp(min=_LEAST_EXPONENT)
        scale = torch.ldexp(torch.ones_like(mantissa), exponent)
        return {"codes": (rows / scale).to(self.dtype), "scale": scale}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        codes, scale = parts["codes"], parts["scale"]
        if self.dtype is torch.float8_e4m3fn:
            return _as_half(codes).float().mul_(256) * scale
        return codes.float() * scale

    def row_bytes(self, width: int) -> int:
        return width + 4


class Int8(Precision):
    """Whole numbers from -127 to 127 times a scale for each row: `scale = max |row| / 127`.

    An error is at most half a scale, 1/254 of the largest weight of the row. Weights that are multiples of the scale
    are kept as they are.
    """

    name, parts = "int8", ("codes", "scale")

    def encode_rows(self, rows: Tensor) -> Parts:
        scale = scale_to(rows, _LEVELS)
        return {"codes": (rows / scale).round().clamp(-_LEVELS, _LEVELS).to(torch.int8), "scale": scale}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        return parts["codes"].float() * parts["scale"]

    def row_bytes(self, width: int) -> int:
        return width + 4


def _as_half(codes: Tensor) -> Tensor:
    """Finite numbers of `float8_e4m3fn` as half-precision ones over 256: the sign and the other bits of the one type
    put where they are in the other, which has a bias of 15 for 7. Far quicker on a processor than its own conversion.
    """
    wide = codes.view(torch.int8).to(torch.int16)
    return (wide.bitwise_left_shift(7) & ~0x4000).view(torch.float16)
