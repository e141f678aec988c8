"""Weights that are packed on the disk: one of them, its place in a network, and what a saved network says of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.errors import InputError, RepositoryError, WeightsError
from calotype.memory.storage.known import parse_precision
from calotype.memory.storage.layers import install, is_storable, part_name
from calotype.memory.storage.precision import Parts, Precision, Shape
from calotype.memory.storage.store import Patterns, stored_layers
from calotype.weights.bitsandbytes import METHOD as BITSANDBYTES
from calotype.weights.bitsandbytes import BitsAndBytesFile, in_published_form, kind_of, precision_for, published
from calotype.weights.needed import QUANTIZATION
from calotype.weights.shards import WeightFile

METHOD, VERSION = "calotype", 1


@dataclass(frozen=True)
class PackedWeight:
    """A weight of this shape, packed."""

    precision: Precision
    parts: Parts
    shape: Shape

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The weight itself."""
        return self.precision.decode(self.parts, self.shape, dtype)

    def rows(self, part: int, parts: int) -> "PackedWeight":
        """One of some equal parts of its rows."""
        cut = {name: tensor.chunk(parts)[part] for name, tensor in self.parts.items()}
        return PackedWeight(self.precision, cut, (self.shape[0] // parts, *self.shape[1:]))

    def placed(self, network: nn.Module, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the state of a network has for its tensor `name`: packed parts, if the layer can hold them, or else the
        decoded weight."""
        layer_name, _, leaf = name.rpartition(".")
        layer = network.get_submodule(layer_name)
        by_rows = self.precision.grid(self.shape)[0] == self.shape[0]
        if leaf != "weight" or not is_storable(layer) or not (by_rows or not isinstance(layer, nn.Embedding)):
            return {name: self.decoded(dtype)}
        install(layer, self.precision, self.parts, self.shape, dtype)
        return {f"{layer_name}.{part_name(part)}": tensor for part, tensor in self.parts.items()}


def described(network: nn.Module) -> dict[str, Any]:
    """What the `config.json` of a network says of its packed layers, under `QUANTIZATION`; nothing where none is."""
    layers: dict[str, list[str]] = {}
    dtypes = set()
    for name, layer in stored_layers(network):
        layers.setdefault(layer.precision.name, []).append(name)
        dtypes.add(str(layer.computed).removeprefix("torch."))
    if not layers:
        return {}
    if (said := published(network)) is not None:
        return {QUANTIZATION: said}
    return {QUANTIZATION: {"quant_method": METHOD, "version": VERSION, "dtype": min(dtypes), "layers": layers}}


def written(network: nn.Module, said: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state of a packed network as it goes to the disk, of which `said` is `described`."""
    state = network.state_dict()
    return state if said[QUANTIZATION]["quant_method"] == METHOD else in_published_form(network, state)


def prepare(
    network: nn.Module,
    said: Any,
    file: WeightFile,
    where: Path,
    dtype: torch.dtype | None,
    own: Patterns | None,
    *,
    saved_here: bool,
) -> WeightFile:
    """Make the layers of a network packed, without data yet, as its `config.json` says. Returns the file to fill them
    from.

    Args:
        said: what is under `QUANTIZATION`.
        where: the `config.json`, for messages.
        dtype: the type to compute in; None for the saved one.
        own: patterns whose precisions of one's own a saved network may name, and which say whether what bitsandbytes
            packed is computed with it.
        saved_here: whether calotype wrote it.

    Raises:
        RepositoryError: it is packed in a way that is not read, or names layers or precisions that there are not.
        WeightsError: a layer's packed tensors are missing or have other sizes.
    """
    if not isinstance(said, Mapping):
        raise RepositoryError(f"{where}: {QUANTIZATION!r} must be an object, got {said!r}")
    method = said.get("quant_method")
    if method == BITSANDBYTES or said.get("load_in_4bit"):
        precision = precision_for(kind_of(said, where), own, saved_here=saved_here)
        file = BitsAndBytesFile(file, said, where, precision)
        chosen = dict.fromkeys(file.layers, precision)
        saved = said.get("bnb_4bit_compute_dtype", "float32")
    elif method == METHOD:
        chosen = _chosen(said, where, own)
        saved = said.get("dtype")
    else:
        raise RepositoryError(
            f"{where}: its weights are quantized by {method!r}, whose files are not read; load the weights as they "
            "were before, with storage={'*': 'int8'} or another precision"
        )
    for name, precision in chosen.items():
        _prepare_layer(network, name, precision, file, where, dtype or _dtype(saved, where))
    return file


def _chosen(said: Mapping[str, Any], where: Path, own: Patterns | None) -> dict[str, Precision]:
    """The precision of every layer, from what a network that was saved here says."""
    if said.get("version") != VERSION:
        raise RepositoryError(
            f"{where}: {QUANTIZATION!r} is of version {said.get('version')!r}; this calotype reads {VERSION}, a newer "
            "one may read more"
        )
    layers = said.get("layers")
    if not isinstance(layers, Mapping) or not all(isinstance(names, list) for names in layers.values()):
        raise RepositoryError(f"{where}: {QUANTIZATION!r} must have 'layers', lists of names by precision")
    known = {one.name: one for one in (own or {}).values() if isinstance(one, Precision)}
    found: dict[str, Precision] = {}
    for word, names in layers.items():
        try:
            precision = known.get(word) or parse_precision(word)
        except InputError as error:
            raise RepositoryError(f"{where}: {error}; one of your own is given as storage={{'*': ...}}") from None
        assert precision is not None
        found |= dict.fromkeys(names, precision)
    return found


def _prepare_layer(
    network: nn.Module, name: str, precision: Precision, file: WeightFile, where: Path, dtype: torch.dtype
) -> None:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        layer = None
    if layer is None or not is_storable(layer):
        raise RepositoryError(f"{where}: {type(network).__name__} has no layer {name!r} whose weight could be packed")
    weight = layer._parameters["weight"]
    assert weight is not None
    shape = tuple(weight.shape)
    keys = {part: f"{name}.{part_name(part)}" for part in precision.parts}
    if missing := [key for key in keys.values() if key not in file.entries]:
        raise WeightsError(f"{file.path} lacks {', '.join(map(repr, missing))}, which {where} says that it has")
    if problem := precision.problem(shape):
        raise WeightsError(f"{file.path}: {name!r} cannot be kept as {precision.name!r}: {problem}")
    parts = {part: file.entries[key] for part, key in keys.items()}
    found = sum(entry.nbytes for entry in parts.values())
    if found != precision.nbytes(shape):
        raise WeightsError(
            f"{file.path}: {name!r} as {precision.name!r} must take {precision.nbytes(shape)} bytes, found {found}"
        )
    rows = precision.grid(shape)[0]
    if any(tuple(entry.shape[:1]) != (rows,) for entry in parts.values()):
        sizes = ", ".join(str(list(entry.shape)) for entry in parts.values())
        raise WeightsError(f"{file.path}: {name!r} must be packed in {rows} rows, found {sizes}")
    blank = {part: torch.empty(entry.shape, dtype=entry.dtype, device="meta") for part, entry in parts.items()}
    install(layer, precision, blank, shape, dtype)


def _dtype(saved: Any, where: Path) -> torch.dtype:
    found = getattr(torch, str(saved).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise RepositoryError(f"{where}: {QUANTIZATION!r} names a type to compute in that there is not, {saved!r}")
    return found


def packed_names(network: nn.Module) -> set[str]:
    """The names of all packed tensors in the state of a network: they are never converted."""
    return {f"{name}.{part_name(part)}" for name, layer in stored_layers(network) for part in layer.precision.parts}


def encoded(
    network: nn.Module, chosen: Mapping[str, Precision], names: Mapping[str, str], file: WeightFile, dtype: Any
) -> Iterable[tuple[str, Tensor]]:
    """Pack the weights of some layers, one after the other: what the state of the network has for each.

    Args:
        chosen: the precision of every layer to pack.
        names: the key in the file of every tensor of the network.
        dtype: the type to compute in; None for the file's.

    Raises:
        WeightsError: a weight has NaN or infinity.
    """
    for layer, precision in chosen.items():
        key = names[f"{layer}.weight"]
        weight = file.tensor(key)
        packed = packed_anew(weight, precision, f"{file.path}: {key!r}")
        yield from packed.placed(network, f"{layer}.weight", dtype or weight.dtype).items()


def packed_anew(weight: Tensor, precision: Precision, where: str) -> PackedWeight:
    """A weight, packed. Raises `WeightsError`, saying `where` it is, when it has NaN or infinity."""
    try:
        return PackedWeight(precision, precision.encode(weight), tuple(weight.shape))
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None
