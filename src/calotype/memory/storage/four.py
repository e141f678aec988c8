"""Half a byte a weight: 4-bit whole numbers in groups, and two kinds of 4-bit floats in blocks."""

import math

import torch
from torch import Tensor

from calotype.memory.storage.precision import Parts, Precision, Shape, in_groups, look_up4, pack4, scale_to

GROUP = 128
BLOCK = 64
NORMAL_FLOAT = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The levels of the 4-bit normal float: quantiles of the normal distribution, as published ("QLoRA: Efficient
Finetuning of Quantized LLMs", Dettmers et al., 2023, appendix E)."""

_SIZES = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
FOUR_BIT_FLOAT = (*_SIZES, *(-size for size in _SIZES))
"""The levels of bitsandbytes' 4-bit float, by code: its `quant_map` in a file."""


class Int4(Precision):
    """Whole numbers from 0 to 15 in groups of 128 along a row: `weight = middle + scale * (code - 7.5)`.

    `middle` and `scale` are each group's: an error is at most half a scale, 1/30 of what the group spans.
    """

    name, parts = "int4", ("codes", "scale", "middle")

    def encode_rows(self, rows: Tensor) -> Parts:
        groups = in_groups(rows, GROUP)
        least, most = groups.aminmax(dim=-1, keepdim=True)
        scale, middle = most / 15 - least / 15, most / 2 + least / 2  # what they span may be beyond float32
        steps = (groups - middle) / torch.where(scale == 0, 1.0, scale)
        codes = (steps + 7.5).round().clamp(0, 15).flatten(1)[:, : _even(rows.shape[1])]
        return {"codes": pack4(codes), "scale": scale[..., 0], "middle": middle[..., 0]}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        levels = torch.arange(16.0, device=parts["codes"].device) - 7.5
        groups = in_groups(look_up4(parts["codes"], levels), GROUP)
        return (groups * parts["scale"][..., None] + parts["middle"][..., None]).flatten(1)[:, :width]

    def row_bytes(self, width: int) -> int:
        return _even(width) // 2 + math.ceil(width / GROUP) * 8


class LookedUp(Precision):
    """One of 16 levels times the largest weight of each block of 64.

    Blocks follow one another through the whole weight, as bitsandbytes packs it; where rows are no multiple of 64 long
    they straddle rows, and the weight is one row to us.

    Attributes:
        levels: what the 16 codes stand for.
    """

    parts = ("codes", "absmax")
    levels: tuple[float, ...]

    def grid(self, shape: Shape) -> tuple[int, int]:
        count, width = super().grid(shape)
        return (count, width) if width % BLOCK == 0 else (1, count * width)

    def encode_rows(self, rows: Tensor) -> Parts:
        blocks = in_groups(rows, BLOCK)
        absmax = scale_to(blocks, 1.0)
        levels, order = rows.new_tensor(self.levels).sort(stable=True)
        nearest = torch.bucketize(blocks / absmax, (levels[1:] + levels[:-1]) / 2, out_int32=True)
        return {"codes": pack4(order[nearest].flatten(1)), "absmax": absmax[..., 0]}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        codes = parts["codes"]
        levels = torch.tensor(self.levels, device=codes.device)
        blocks = look_up4(codes, levels).view(len(codes), -1, BLOCK)
        return (blocks * parts["absmax"][..., None]).flatten(1)[:, :width]

    def row_bytes(self, width: int) -> int:
        return math.ceil(width / BLOCK) * (BLOCK // 2 + 4)


class NormalFloat4(LookedUp):
    """The 4-bit normal float of QLoRA: an error is at most 0.152 of the block's largest weight, half of the widest gap
    between levels."""

    name, levels = "nf4", NORMAL_FLOAT


class Float4(LookedUp):
    """bitsandbytes' float of 4 bits: a sign, two bits of exponent and one of mantissa. An error is at most 1/6 of the
    block's largest weight."""

    name, levels = "fp4", FOUR_BIT_FLOAT


def _even(width: int) -> int:
    return width + width % 2
