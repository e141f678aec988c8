"""GGUF files of a network's tensors."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor


def blocks_of(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bytes that are blocks of a type, whose half-precision scales are small numbers: uint8 [rows, bytes]."""
    each, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows = np.random.default_rng(seed).integers(0, 256, (shape[0], int(np.prod(shape[1:])) // each * size), np.uint8)
    blocks = rows.reshape(-1, size)
    for start in HALVES[kind]:
        blocks[:, start + 1] &= 0x83  # below 2^-7, of either sign
    return rows


HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
"""Where a block of each type has its half-precision numbers."""


def write_gguf(
    path: Path,
    tensors: Mapping[str, Tensor],
    kinds: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write tensors, each in the type that `kinds` has for it, by default `F32`.

    Args:
        shapes: for tensors that are written in another shape, the one that the metadata says.
    """
    writer = gguf.GGUFWriter(path, "diffusion")
    for name, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType[kinds.get(name, "F32")]
        data = gguf.quants.quantize(tensor.float().contiguous().numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
