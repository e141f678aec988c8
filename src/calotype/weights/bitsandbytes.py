"""Networks as bitsandbytes publishes them: its layout of packed weights, read and written.

Source: the published layout of such files. In 4 bits `X.weight` are the codes, two a byte, `X.weight.absmax` the
largest weight of each block of 64, `X.weight.quant_map` the levels, and `X.weight.quant_state.bitsandbytes__nf4` (or
`__fp4`) a JSON text with the shape. Under double quantization (QLoRA, section 3) `absmax` is 8-bit codes of a table,
`nested_quant_map`, times `nested_absmax` of each 256, plus `nested_offset`. In 8 bits `X.weight` are the codes, `X.SCB`
the largest weight of each row, and `X.weight_format` is 0, for rows.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import RepositoryError, WeightsError
from calotype.memory.storage.bitsandbytes import BITSANDBYTES, OUTLIER, BitsAndBytes4
from calotype.memory.storage.four import BLOCK, FOUR_BIT_FLOAT, NORMAL_FLOAT
from calotype.memory.storage.known import PRECISIONS
from calotype.memory.storage.layers import Stored, part_name
from calotype.memory.storage.precision import Precision, Shape
from calotype.memory.storage.store import Patterns, stored_layers
from calotype.weights.files import TensorEntry
from calotype.weights.shards import WeightFile
from calotype.weights.sources import Source

METHOD = "bitsandbytes"

_STATE = ".weight.quant_state.bitsandbytes__"
_BESIDE_4 = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_LEVELS = {"nf4": NORMAL_FLOAT, "fp4": FOUR_BIT_FLOAT}
_BY_NAME = {one.name: one for one in BITSANDBYTES}


class BitsAndBytesFile:
    """The tensors of such a file under the names that a packed layer has.

    Args:
        file: the file.
        said: what the network's `config.json` says of it.
        where: that file, for messages.
        precision: what the layers will be kept in: the package's own, or ours, of the same numbers.

    Raises:
        RepositoryError: it is of a type that is not read.
        WeightsError: a weight is described as what it is not.
    """

    def __init__(self, file: WeightFile, said: Mapping[str, Any], where: Path, precision: Precision) -> None:
        self.path, self._file, self.precision = file.path, file, precision
        self.kind = kind_of(said, where)
        threshold = said.get("llm_int8_threshold", OUTLIER)
        if precision is _BY_NAME["bitsandbytes_int8"] and threshold != OUTLIER:
            raise RepositoryError(
                f"{where}: 'llm_int8_threshold' must be {OUTLIER}, which alone is computed with, got {threshold}; load "
                "it with storage={'*': 'int8'}, which rounds nothing that enters a layer"
            )
        end = ".SCB" if self.kind == "int8" else _STATE + self.kind
        self.layers = [key.removesuffix(end) for key in file.entries if key.endswith(end)]
        shape_of = self._shape_8 if self.kind == "int8" else self._shape_4
        self._shapes = {layer: shape_of(layer) for layer in self.layers}
        self._beside = ("weight", "SCB" if self.kind == "int8" else "weight.absmax")
        self._keys: dict[str, str] = {}
        self.entries = self._entries()

    def tensor(self, name: str) -> Tensor:
        """See `WeightFile.tensor`. What the file has in another form is put together once."""
        if name in self._file.entries:
            return self._file.tensor(name)
        mapped = self._mapped(name)
        if mapped is not None:
            return mapped
        layer, _, leaf = name.rpartition(".")
        entry = self.entries[name]
        if self.kind == "int8":
            return (self._file.tensor(f"{layer}.SCB").float() / 127).view(entry.shape)
        flat = self._there(name) if leaf == part_name("codes") else self._absmax(layer)
        return functional.pad(flat, (0, entry.shape[0] * entry.shape[1] - flat.numel())).view(entry.shape)

    def source(self, name: str) -> Source | None:
        """Where the named tensor can be read again; None for what is put together here."""
        if name in self._file.entries:
            return self._file.source(name)
        found, mapped = self._file.source(self._keys[name]), self._mapped(name)
        return None if found is None or mapped is None else Source(found.reader, found.name, mapped, found.start)

    def _mapped(self, name: str) -> Tensor | None:
        """A packed tensor that the file has as it is kept, but for its shape: the mapped file itself."""
        entry, there = self.entries[name], self._there(name)
        scaled = self.kind == "int8" and name.endswith(part_name("scale"))
        if scaled or there.dtype != entry.dtype or there.nbytes != entry.nbytes:
            return None
        return there.view(entry.shape)

    def _there(self, name: str) -> Tensor:
        """What the file has of a packed tensor. Codes of 4 bits are bytes there, of whatever type it keeps them as
        (`bnb_4bit_quant_storage`)."""
        there = self._file.tensor(self._keys[name])
        are_codes = self.kind != "int8" and name.endswith(part_name("codes"))
        return there.reshape(-1).view(torch.uint8) if are_codes else there

    def _absmax(self, layer: str) -> Tensor:
        absmax = self._file.tensor(f"{layer}.weight.absmax").reshape(-1)
        if not self._is_twice(layer):
            return absmax.float()
        state, stem = self._state(layer), f"{layer}.weight.nested"
        table, outer = self._file.tensor(f"{stem}_quant_map"), self._file.tensor(f"{stem}_absmax")
        size = state["nested_blocksize"]
        scales = outer.float().repeat_interleave(size)[: absmax.numel()]
        found: Tensor = table.float()[absmax.int()] * scales + state["nested_offset"]
        return found

    def _state(self, layer: str) -> dict[str, Any]:
        key = f"{layer}{_STATE}{self.kind}"
        raw = self._file.tensor(key)
        try:
            state = json.loads(bytes(raw.tolist()))
            if state["blocksize"] != BLOCK:
                raise ValueError(f"blocks of {state['blocksize']}, expected {BLOCK}")
            if not all(type(n) is int and n > 0 for n in state["shape"]):
                raise ValueError(f"the shape {state['shape']}")
            if self._is_twice(layer) and not (state["nested_blocksize"] > 0 and math.isfinite(state["nested_offset"])):
                raise ValueError(f"scales in blocks of {state['nested_blocksize']}, about {state['nested_offset']}")
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{self.path}: {key!r} is not what bitsandbytes writes: {error}") from None
        found: dict[str, Any] = state
        return found

    def _shape_4(self, layer: str) -> Shape:
        shape: Shape = tuple(self._state(layer)["shape"])
        weight = self._file.entries.get(f"{layer}.weight")
        count = torch.Size(shape).numel()
        if weight is None or weight.nbytes != (count + 1) // 2:
            found = "nothing" if weight is None else f"{weight.nbytes} bytes"
            raise WeightsError(f"{self.path}: {layer}.weight of shape {list(shape)} in 4 bits is {found}")
        self._check_scales(layer, -(-count // BLOCK))
        return shape

    def _is_twice(self, layer: str) -> bool:
        """Whether the scales of a layer are packed too."""
        scales = self._file.entries.get(f"{layer}.weight.absmax")
        return scales is not None and scales.dtype == torch.uint8

    def _check_scales(self, layer: str, blocks: int) -> None:
        """Raise `WeightsError` unless there is a scale for each block, with what it is made of, and known levels."""
        wanted = {"absmax": blocks}
        if self._is_twice(layer):
            wanted |= {"nested_absmax": -(-blocks // self._state(layer)["nested_blocksize"]), "nested_quant_map": 256}
        for name, count in wanted.items():
            entry = self._file.entries.get(f"{layer}.weight.{name}")
            if entry is None or torch.Size(entry.shape).numel() != count:
                found = "nothing" if entry is None else f"numbers {list(entry.shape)}"
                raise WeightsError(f"{self.path}: {layer}.weight.{name} must have {count} numbers, found {found}")
        if (key := f"{layer}.weight.quant_map") in self._file.entries:
            levels = self._file.tensor(key).float()
            if levels.shape != (16,) or not torch.allclose(levels, torch.tensor(_LEVELS[self.kind]), atol=1e-4):
                raise WeightsError(f"{self.path}: {key!r} is not the levels of {self.kind!r}, which alone are read")

    def _shape_8(self, layer: str) -> Shape:
        weight, scale = self._file.entries.get(f"{layer}.weight"), self._file.entries[f"{layer}.SCB"]
        if weight is None or weight.dtype != torch.int8 or (scale.dtype, scale.shape) != (
            torch.float32, weight.shape[:1],
        ):  # fmt: skip
            found = "nothing" if weight is None else f"{weight.dtype} {list(weight.shape)}"
            raise WeightsError(f"{self.path}: {layer}.weight in 8 bits is {found}, beside SCB {list(scale.shape)}")
        key = f"{layer}.weight_format"
        if key in self._file.entries and int(self._file.tensor(key)):
            raise WeightsError(f"{self.path}: {layer}.weight is not kept by rows, which alone is read")
        return weight.shape

    def _entries(self) -> dict[str, TensorEntry]:
        taken = set()
        for layer in self.layers:
            taken |= {f"{layer}.weight.{name}" for name in _BESIDE_4} | {f"{layer}{_STATE}{self.kind}"}
            taken |= {f"{layer}.weight", f"{layer}.SCB", f"{layer}.weight_format"}
        entries = {key: entry for key, entry in self._file.entries.items() if key not in taken}
        codes, scale = self.precision.parts
        for layer, shape in self._shapes.items():
            rows, width = self.precision.grid(shape)
            if self.kind == "int8":
                parts = {codes: (torch.int8, (rows, width)), scale: (torch.float32, _column(scale, rows))}
            else:
                blocks = -(-width // BLOCK)
                parts = {codes: (torch.uint8, (rows, blocks * BLOCK // 2)), scale: (torch.float32, (rows, blocks))}
            for (part, (dtype, size)), beside in zip(parts.items(), self._beside, strict=True):
                name, nbytes = f"{layer}.{part_name(part)}", torch.Size(size).numel() * dtype.itemsize
                entries[name] = TensorEntry(dtype, size, 0, nbytes)
                self._keys[name] = f"{layer}.{beside}"
        return entries


def kind_of(said: Mapping[str, Any], where: Path) -> str:
    """The type that a network was packed in: `nf4`, `fp4` or `int8`. Raises `RepositoryError` for any other."""
    if said.get("load_in_8bit"):
        return "int8"
    kind = said.get("bnb_4bit_quant_type", "fp4")
    if kind not in _LEVELS:
        raise RepositoryError(
            f"{where}: of bitsandbytes' types 'nf4', 'fp4' and 8 bits are read, not {kind!r}; load the weights as they "
            "were before, with storage={'*': 'nf4'} or 'int8'"
        )
    return str(kind)


def precision_for(kind: str, own: Patterns | None, *, saved_here: bool) -> Precision:
    """What such weights are kept in: what `own` patterns name, or else the package's where they were saved here, so
    that the same numbers are computed, and ours, which needs no package, where they were not."""
    packages = f"bitsandbytes_{kind}"
    asked = {one if isinstance(one, str) else getattr(one, "name", "") for one in (own or {}).values()}
    if kind in asked or (packages not in asked and not saved_here):
        return PRECISIONS[kind]
    return PRECISIONS[packages]


def published(network: nn.Module) -> dict[str, Any] | None:
    """What the `config.json` of a network says of its packed layers in bitsandbytes' own format; None where they cannot
    be said in it: they are of several precisions, of another's, or no linear layers."""
    layers = dict(stored_layers(network))
    names = {layer.precision.name for layer in layers.values()}
    if len(names) != 1 or not names <= _BY_NAME.keys() or not all(isinstance(m, nn.Linear) for m in layers.values()):
        return None
    kind = names.pop().removeprefix("bitsandbytes_")
    rest = [name for name, m in network.named_modules() if isinstance(m, nn.Linear) and name not in layers]
    return {
        "quant_method": METHOD,
        "load_in_8bit": kind == "int8",
        "load_in_4bit": kind != "int8",
        "bnb_4bit_compute_dtype": min(str(m.computed).removeprefix("torch.") for m in layers.values()),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind if kind != "int8" else "fp4",
        "bnb_4bit_use_double_quant": False,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": rest,
        "llm_int8_threshold": OUTLIER,
    }


def in_published_form(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of such a network under the names, and in the shapes, that bitsandbytes gives its tensors."""
    found = dict(state)
    for name, layer in stored_layers(network):
        parts = {part: found.pop(f"{name}.{part_name(part)}") for part in layer.precision.parts}
        found |= {f"{name}.{key}": tensor for key, tensor in _form(layer, parts).items()}
    return found


def _form(layer: Stored, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(layer.precision, BitsAndBytes4):
        return {"weight": parts["codes"], "SCB": parts["absmax"], "weight_format": torch.tensor(0, dtype=torch.uint8)}
    kind = layer.precision.kind
    dtype = str(layer.computed).removeprefix("torch.")
    said = {"quant_type": kind, "blocksize": BLOCK, "dtype": dtype, "shape": list(layer.weight_shape)}
    return {
        "weight": parts["codes"].reshape(-1, 1),
        "weight.absmax": parts["absmax"].reshape(-1),
        "weight.quant_map": torch.tensor(layer.precision.levels),
        f"weight.quant_state.bitsandbytes__{kind}": torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8),
    }


def _column(scale: str, rows: int) -> Shape:
    """How a scale a row lies: ours beside the codes, the package's by itself."""
    return (rows, 1) if scale == "scale" else (rows,)
