"""The block types of GGUF files, decoded as the layout of each says.

Source: the structures of ggml (`block_q4_0`, `block_q4_K`, ...), whose bytes a GGUF file holds. A row is a sequence of
blocks, each with its own scales. Types with `_K` have a block of 256 weights in 8 or 16 parts, whose scales are whole
numbers times a half-precision one.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.memory.storage.precision import Parts, Precision, Shape

Decode: TypeAlias = Callable[[Tensor], Tensor]
"""Blocks as bytes, uint8 `[n, bytes]` -> the weights, float32 `[n, size]`."""

_MADE = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})


class Blocks(Precision):
    """A block type: `size` weights in `nbytes_each` bytes.

    Decodes with torch alone. To encode asks the `gguf` package, which makes the types without `_k`.
    """

    parts = ("blocks",)

    def __init__(self, name: str, size: int, nbytes_each: int, decode: Decode) -> None:
        self.name, self.size, self.nbytes_each, self._decode = name, size, nbytes_each, decode

    def encode_rows(self, rows: Tensor) -> Parts:
        if self.name not in _MADE:
            raise InputError(
                f"{self.name!r} is read from GGUF files, not made; store in one of {', '.join(sorted(_MADE))} instead"
            )
        gguf = gguf_package(f"to store weights as {self.name!r}")
        made = gguf.quants.quantize(rows.cpu().numpy(), gguf.GGMLQuantizationType[self.name.upper()])
        return {"blocks": torch.from_numpy(made).to(rows.device)}

    def decode_rows(self, parts: Parts, width: int) -> Tensor:
        packed = parts["blocks"]
        return self._decode(packed.reshape(-1, self.nbytes_each)).view(len(packed), width)

    def row_bytes(self, width: int) -> int:
        return width // self.size * self.nbytes_each

    def problem(self, shape: Shape) -> str:
        _, width = self.grid(shape)
        return f"its rows are {width} long, no multiple of {self.size}" if width % self.size else ""


def gguf_package(why: str) -> Any:
    """The `gguf` package. Raises `InputError`, saying what to install, where it is not there."""
    try:
        import gguf
    except ImportError:
        raise InputError(f"{why} needs the package gguf: pip install 'calotype[gguf]'") from None
    return gguf


def halves(blocks: Tensor, start: int, count: int = 1) -> Tensor:
    """Half-precision numbers in each block: float32 `[n, count]`."""
    return blocks[:, start : start + 2 * count].contiguous().view(torch.float16).float()


def nibbles(packed: Tensor) -> Tensor:
    """The lower halves of bytes, then the upper ones: uint8 `[..., b]` -> `[..., 2 b]`."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def bits(packed: Tensor) -> Tensor:
    """The bits of bytes, lowest first: uint8 `[n, b]` -> 0 or 1, `[n, 8 b]`."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> places) & 1).flatten(-2)


def _q4_0(blocks: Tensor) -> Tensor:
    return halves(blocks, 0) * (nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return halves(blocks, 0) * nibbles(blocks[:, 4:]).float() + halves(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    codes = nibbles(blocks[:, 6:]) | (bits(blocks[:, 2:6]) << 4)
    return halves(blocks, 0) * (codes.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    codes = nibbles(blocks[:, 8:]) | (bits(blocks[:, 4:8]) << 4)
    return halves(blocks, 0) * codes.float() + halves(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return halves(blocks, 0) * blocks[:, 2:].view(torch.int8).float()


def pairs_of_bits(packed: Tensor) -> Tensor:
    """Numbers of two bits, 64 bytes for 256 of them: each byte has four that lie 32 apart: `[n, 64]` -> `[n, 256]`."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=packed.device)
    return ((packed.view(-1, 2, 1, 32) >> shifts[:, None]) & 3).flatten(1)


def scales_of_six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight offsets of six bits in 12 bytes: float32 `[n, 8, 1]` each."""
    first, second, third = packed.view(-1, 3, 4).unbind(1)
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], dim=1)
    offsets = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], dim=1)
    return scales.float()[..., None], offsets.float()[..., None]


def _q2_k(blocks: Tensor) -> Tensor:
    packed, codes = blocks[:, :16], pairs_of_bits(blocks[:, 16:80].contiguous())
    scales, offsets = halves(blocks, 80) * (packed & 15).float(), halves(blocks, 82) * (packed >> 4).float()
    return (scales[..., None] * codes.view(-1, 16, 16).float() - offsets[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=blocks.device)
    high = ((blocks[:, None, :32] >> places[:, None]) & 1).flatten(1)
    codes = pairs_of_bits(blocks[:, 32:96].contiguous()).float() - 4 * (1 - high.float())
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=blocks.device)
    upper = ((blocks[:, None, 104:108] >> shifts[:, None]) & 3).flatten(1)
    scales = (nibbles(blocks[:, 96:104]) | (upper << 4)).float() - 32
    return ((halves(blocks, 108) * scales)[..., None] * codes.view(-1, 16, 16)).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    scales, offsets = scales_of_six_bits(blocks[:, 4:16].contiguous())
    codes = nibbles(blocks[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32)
    return _with_offsets(blocks, scales, offsets, codes)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, offsets = scales_of_six_bits(blocks[:, 4:16].contiguous())
    places = torch.arange(8, dtype=torch.uint8, device=blocks.device)
    high = (blocks[:, None, 16:48] >> places[:, None]) & 1
    codes = nibbles(blocks[:, 48:].reshape(-1, 4, 32)).view(-1, 8, 32) | (high << 4)
    return _with_offsets(blocks, scales, offsets, codes)


def _with_offsets(blocks: Tensor, scales: Tensor, offsets: Tensor, codes: Tensor) -> Tensor:
    scale, offset = halves(blocks, 0)[..., None] * scales, halves(blocks, 2)[..., None] * offsets
    return (scale * codes.float() - offset).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    lower = nibbles(blocks[:, :128].reshape(-1, 2, 64)).flatten(1)
    upper = pairs_of_bits(blocks[:, 128:192].contiguous())
    codes = (lower | (upper << 4)).float() - 32
    scales = halves(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (scales[..., None] * codes.view(-1, 16, 16)).flatten(1)


GGML: tuple[Blocks, ...] = (
    Blocks("q4_0", 32, 18, _q4_0),
    Blocks("q4_1", 32, 20, _q4_1),
    Blocks("q5_0", 32, 22, _q5_0),
    Blocks("q5_1", 32, 24, _q5_1),
    Blocks("q8_0", 32, 34, _q8_0),
    Blocks("q2_k", 256, 84, _q2_k),
    Blocks("q3_k", 256, 110, _q3_k),
    Blocks("q4_k", 256, 144, _q4_k),
    Blocks("q5_k", 256, 176, _q5_k),
    Blocks("q6_k", 256, 210, _q6_k),
)
"""The types that are decoded, by the names that GGUF files have for them in lower case."""
