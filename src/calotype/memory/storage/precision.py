"""A storage precision: how a weight is packed to be kept, and what it is while a layer computes.

A precision works on rows: a weight `[out, in, *kernel]` is `out` rows, each packed by itself, so that rows may be
encoded, decoded, looked up and divided without the rest. One of your own is three methods and two names:

    class Ternary(Precision):
        name, parts = "ternary", ("signs", "scale")

        def encode_rows(self, rows):
            scale = rows.abs().mean(dim=1, keepdim=True)
            return {"signs": (rows / scale).round().clamp(-1, 1).to(torch.int8), "scale": scale}

        def decode_rows(self, parts, width):
            return parts["signs"].float() * parts["scale"]

        def row_bytes(self, width):
            return width + 4

    store(pipe.transformer, {"*": Ternary()})
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from calotype.errors import WeightsError

Parts: TypeAlias = Mapping[str, Tensor]
"""The tensors that a packed weight is made of, by name. The first axis of each counts rows."""

Shape: TypeAlias = tuple[int, ...]

_STRIP = 2**18
"""How many weights are encoded or decoded at once on a processor: they and what is computed of them stay in its cache,
and no whole weight is ever in float32 beside the packed one."""


class Precision(ABC):
    """How weights are packed. Holds no tensors, so that one serves any number of layers.

    Attributes:
        name: what `store` and a saved network call it.
        parts: the names of the tensors that it packs a weight into.
    """

    name: str
    parts: tuple[str, ...]

    @abstractmethod
    def encode_rows(self, rows: Tensor) -> Parts:
        """The parts of some rows, float32 and finite `[r, width]`. Every part is `[r, ...]`."""

    @abstractmethod
    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        """The rows that these parts stand for: float32 `[r, width]`."""

    @abstractmethod
    def row_bytes(self, width: int) -> int:
        """How many bytes all parts of a row take."""

    def product(self, x: Tensor, parts: Parts, bias: Tensor | None) -> Tensor | None:
        """What a linear layer makes of `x [..., in]`, where the precision can multiply without decoding; None where it
        cannot, and the weight is decoded."""
        return None

    def grid(self, shape: Shape) -> tuple[int, int]:
        """How many rows a weight of this shape is, and how long they are."""
        return shape[0], math.prod(shape[1:])

    def problem(self, shape: Shape) -> str:
        """Why a weight of this shape cannot be packed, in words; `""` where it can."""
        return ""

    def nbytes(self, shape: Shape) -> int:
        """How many bytes a packed weight of this shape takes."""
        count, width = self.grid(shape)
        return count * self.row_bytes(width)

    @torch.no_grad()
    def encode(self, weight: Tensor) -> Parts:
        """The parts of a whole weight, on its device.

        Raises:
            WeightsError: the weight has NaN or infinity, which no precision keeps.
        """
        count, width = self.grid(tuple(weight.shape))
        rows = weight.detach().reshape(count, width)
        packed = [self.encode_rows(_finite(self.name, rows[at].float())) for at in _strips(rows)]
        return {name: torch.cat([parts[name] for parts in packed]) for name in self.parts}

    def decode(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> Tensor:
        """The weight that the parts stand for, of this shape and type, on their device."""
        count, width = self.grid(shape)
        device = parts[self.parts[0]].device
        if device.type != "cpu" or count * width <= _STRIP or torch.compiler.is_compiling():
            return self.decode_rows(parts, width).to(dtype).view(shape)
        rows = torch.empty(count, width, dtype=dtype, device=device)
        for at in _strips(rows):
            rows[at] = self.decode_rows({name: part[at] for name, part in parts.items()}, width)
        return rows.view(shape)

    def __repr__(self) -> str:
        return f"<precision {self.name}>"


def _strips(rows: Tensor) -> Iterator[slice]:
    """The rows in slices that are small on a processor; another device takes all at once."""
    count, width = rows.shape
    step = max(1, _STRIP // max(1, width)) if rows.device.type == "cpu" else max(1, count)
    return (slice(at, at + step) for at in range(0, count, step))


def _finite(name: str, rows: Tensor) -> Tensor:
    if not torch.isfinite(rows).all():
        raise WeightsError(f"a weight has NaN or infinity, which {name!r} cannot keep; load it with check='finite'")
    return rows


def scale_to(rows: Tensor, most: float) -> Tensor:
    """What the largest value of each row `[r, n]` is divided by to become `most`: `[r, 1]`, 1 for a row of zeros."""
    scale: Tensor = rows.abs().amax(dim=-1, keepdim=True) / most
    return torch.where(scale == 0, 1.0, scale)


def pack4(codes: Tensor) -> Tensor:
    """Two numbers from 0 to 15 a byte, the first in the upper half: `[..., n]` -> uint8 `[r, n / 2]`."""
    pairs = codes.to(torch.uint8).view(len(codes), -1, 2)
    packed: Tensor = (pairs[..., 0] << 4) | pairs[..., 1]
    return packed


def look_up4(packed: Tensor, levels: Tensor) -> Tensor:
    """What `pack4` packed, each number replaced by one of 16 float32 levels: uint8 `[r, n / 2]` -> float32 `[r, n]`.

    Both numbers of a byte are looked up at once, as the two halves of a whole number of 64 bits.
    """
    byte = torch.arange(256, device=levels.device)
    pairs = torch.stack([levels[byte >> 4], levels[byte & 15]], dim=1).view(torch.int64).flatten()
    return torch.index_select(pairs, 0, packed.flatten().int()).view(torch.float32).view(len(packed), -1)


def in_groups(rows: Tensor, size: int) -> Tensor:
    """Rows `[r, n]` in groups `[r, ceil(n / size), size]`; the last is filled up with the row's last value."""
    if lacking := -rows.shape[1] % size:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, lacking)], dim=1)
    return rows.reshape(len(rows), -1, size)
