"""Files of weights in the 4-bit normal float as bitsandbytes writes them, read as ours.

Source: the published layout of such files. `X.weight` are the codes, two a byte, `X.weight.absmax` the largest weight
of each block of 64, and `X.weight.quant_state.bitsandbytes__nf4` a JSON text with the shape. Under double quantization
(QLoRA, section 3) `absmax` is 8-bit codes of a table, `nested_quant_map`, times `nested_absmax` of each 256, plus
`nested_offset`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from calotype.errors import RepositoryError, WeightsError
from calotype.memory.storage.four import BLOCK, NormalFloat4
from calotype.memory.storage.layers import part_name
from calotype.weights.files import TensorEntry
from calotype.weights.shards import WeightFile
from calotype.weights.sources import Source

_STATE = ".weight.quant_state.bitsandbytes__nf4"
_BESIDE = ("absmax", "quant_map", "quant_state.bitsandbytes__nf4", "nested_absmax", "nested_quant_map")


class NormalFloatFile:
    """The tensors of such a file under the names that a packed layer has.

    Raises:
        RepositoryError: the configuration is of another way of bitsandbytes, 8 bits or its 4-bit float.
        WeightsError: a weight is described as what it is not.
    """

    def __init__(self, file: WeightFile, said: Mapping[str, Any], where: Path) -> None:
        if said.get("load_in_8bit") or said.get("bnb_4bit_quant_type", "fp4") != "nf4":
            raise RepositoryError(
                f"{where}: of the ways of bitsandbytes only 'nf4' is read; load the weights as they were before, with "
                "storage={'*': 'nf4'} or 'int8'"
            )
        self.path, self._file = file.path, file
        self.layers = [key.removesuffix(_STATE) for key in file.entries if key.endswith(_STATE)]
        self._shapes = {layer: self._shape(layer) for layer in self.layers}
        self.entries = self._entries()

    def tensor(self, name: str) -> Tensor:
        """See `WeightFile.tensor`. What is quantized twice is decoded once."""
        layer, _, leaf = name.rpartition(".")
        if layer not in self._shapes or not leaf.startswith("weight_"):
            return self._file.tensor(name)
        entry = self.entries[name]
        flat = self._codes(layer) if leaf == part_name("codes") else self._absmax(layer)
        return functional.pad(flat, (0, entry.shape[0] * entry.shape[1] - flat.numel())).view(entry.shape)

    def source(self, name: str) -> Source | None:
        """Where the named tensor can be read again; None for what is put together here."""
        return self._file.source(name) if name in self._file.entries else None

    def _codes(self, layer: str) -> Tensor:
        return self._file.tensor(f"{layer}.weight").reshape(-1)

    def _absmax(self, layer: str) -> Tensor:
        absmax = self._file.tensor(f"{layer}.weight.absmax")
        if absmax.dtype != torch.uint8:
            return absmax.float()
        state, stem = self._state(layer), f"{layer}.weight.nested"
        table, outer = self._file.tensor(f"{stem}_quant_map"), self._file.tensor(f"{stem}_absmax")
        size = state["nested_blocksize"]
        scales = outer.float().repeat_interleave(size)[: absmax.numel()]
        found: Tensor = table.float()[absmax.int()] * scales + state["nested_offset"]
        return found

    def _state(self, layer: str) -> dict[str, Any]:
        raw = self._file.tensor(f"{layer}{_STATE}")
        try:
            state = json.loads(bytes(raw.tolist()))
            if state["blocksize"] != BLOCK or not all(type(n) is int for n in state["shape"]):
                raise ValueError(f"blocks of {state['blocksize']}, expected {BLOCK}")
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{self.path}: {layer + _STATE!r} is not what bitsandbytes writes: {error}") from None
        found: dict[str, Any] = state
        return found

    def _shape(self, layer: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = tuple(self._state(layer)["shape"])
        weight = self._file.entries.get(f"{layer}.weight")
        count = torch.Size(shape).numel()
        if weight is None or weight.nbytes != (count + 1) // 2:
            found = "nothing" if weight is None else f"{weight.nbytes} bytes"
            raise WeightsError(f"{self.path}: {layer}.weight of shape {list(shape)} in 4 bits is {found}")
        return shape

    def _entries(self) -> dict[str, TensorEntry]:
        taken = {f"{layer}.weight" for layer in self.layers}
        taken |= {f"{layer}.weight.{name}" for layer in self.layers for name in _BESIDE}
        entries = {key: entry for key, entry in self._file.entries.items() if key not in taken}
        for layer, shape in self._shapes.items():
            rows, width = NormalFloat4().grid(shape)
            blocks = -(-width // BLOCK)
            codes, absmax = rows * blocks * BLOCK // 2, rows * blocks * 4
            entries[f"{layer}.weight_codes"] = TensorEntry(torch.uint8, (rows, blocks * BLOCK // 2), 0, codes)
            entries[f"{layer}.weight_absmax"] = TensorEntry(torch.float32, (rows, blocks), 0, absmax)
        return entries
