"""One network's folder: a `config.json` beside one safetensors file, or the shards of one.

Loading builds the network without memory for its parameters, maps the file and assigns the mapped tensors: no second
copy is made, and where the file's type is the wanted one, no copy at all. Loading is strict.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from calotype import __version__
from calotype.atomic import atomic_folder
from calotype.errors import ConfigError, RepositoryError, WeightsError, did_you_mean, listed
from calotype.memory.residency import parse_bytes
from calotype.nn.network import Network
from calotype.weights.dtypes import parse_dtype
from calotype.weights.files import SafetensorsFile, write_safetensors
from calotype.weights.finite import refuse_infinite, refuse_unknown_check
from calotype.weights.guarded import remember
from calotype.weights.matching import matched_keys
from calotype.weights.model_index import INDEX_NAME, read_json_object, write_json
from calotype.weights.needed import CONFIG_NAME, QUANTIZATION, WEIGHTS_NAMES, check_subfolder, fetch_component, stems
from calotype.weights.repository import open_repository
from calotype.weights.shards import (
    RestingFile,
    ShardedFile,
    WeightFile,
    check_variant,
    find_weights,
    is_index,
    open_weights,
    shard_names,
    split_into_shards,
    weights_name,
)
from calotype.weights.unfilled import ParametersWithoutMemory

if TYPE_CHECKING:
    from calotype.memory.storage.store import Patterns

N = TypeVar("N", bound=Network)


@torch.inference_mode(False)  # tensors made in it keep no count of what is written to them
def load_network(
    cls: type[N],
    folder: Path,
    *,
    dtype: torch.dtype | str | None = None,
    variant: str | None = None,
    check: str | None = None,
    storage: "Patterns | None" = None,
    deferred: bool = False,
) -> N:
    """The network of class `cls` in `folder`, in evaluation mode.

    Args:
        cls: the class that the folder's `config.json` describes.
        folder: a folder with a `config.json` and a safetensors file of one of `WEIGHTS_NAMES`, or an index of shards.
        dtype: the type of its floating-point tensors, by default `torch.float32` whatever the file has; `"auto"` keeps
            the file's. A tensor that has the type already is the mapped file; others are converted one at a time.
        variant: which of several weight files: `"fp16"` for `diffusion_pytorch_model.fp16.safetensors`.
        check: `"finite"` reads every tensor once and refuses those that have NaN or infinity.
        storage: layers by pattern, and the precision that each is kept in (see `calotype.memory.storage.store`). They
            are packed one at a time as they are read. `dtype` is what they are decoded to. A network that was saved
            packed is loaded so by itself.
        deferred: convert nothing yet: what has another type in the file is read when memory brings it. For pipelines
            with a budget.

    Raises:
        InputError: `storage` means no layer, or a precision that there is not.
        RepositoryError: a file is missing, `config.json` is not a JSON object, or it describes another class.
        ConfigError: `cls` does not take the configuration.
        WeightsError: a weight file is damaged or missing, its keys and shapes are not exactly the network's, or the
            check found something.
    """
    wanted = parse_dtype(torch.float32 if dtype is None else dtype)
    refuse_unknown_check(check)
    config = read_config(cls, folder)
    quantized = config.pop(QUANTIZATION, None)
    file: WeightFile = (opened := open_weights(weights_path(cls, folder, variant)))
    try:
        with ParametersWithoutMemory():
            network = cls(**config)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_NAME}: {error}") from None
    if quantized is not None:
        from calotype.weights.packed import prepare  # only a packed network needs it

        here = "_calotype_version" in config
        file = prepare(network, quantized, file, folder / CONFIG_NAME, wanted, storage, saved_here=here)
    names = matched_keys(network, file)
    if check == "finite":
        refuse_infinite(str(file.path), ((key, file.tensor(key)) for key in file.entries))
    as_it_is = storage is None and quantized is None
    if deferred and as_it_is:
        file = RestingFile(file, wanted)
    state = _state(network, file, names, wanted, storage, is_packed=quantized is not None)
    _rest_converted(opened, names, state)
    network.load_state_dict(state, strict=True, assign=True)
    remember(network, {name: file.source(key) for name, key in names.items() if name in state})
    _refuse_empty(network)
    return network.eval()


def _refuse_empty(network: Network) -> None:
    """Raise `WeightsError` where a tensor has no values: no file had it, and no constructor computed it."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta:
            who = type(network).__name__
            raise WeightsError(f"{who}: {name!r} is neither in the file nor computed by the constructor")


def load_from(
    cls: type[N],
    source: str | PathLike[str],
    subfolder: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    check: str | None = None,
    storage: "Patterns | None" = None,
) -> N:
    """The network in a folder or a repository on a hub; only its own files are fetched. See `Network.from_pretrained`
    and `load_network`."""
    if dtype is not None:
        parse_dtype(dtype)
    refuse_unknown_check(check)
    check_variant(variant)
    inner = check_subfolder(source, subfolder)
    repository = open_repository(source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    folder = fetch_component(repository, cls, inner, variant)
    return load_network(cls, folder, dtype=dtype, variant=variant, check=check, storage=storage)


def save_network(
    network: Network, folder: Path, *, variant: str | None = None, max_shard_size: int | str | None = None
) -> None:
    """Write `network` to `folder` in the layout that `load_network` reads. Atomic: an interrupted save changes nothing.

    Args:
        variant: a word in the file's name, such as `"fp16"`.
        max_shard_size: bytes or a text such as `"5GB"`; more weights are written as several files and an index.

    Raises:
        RepositoryError: `folder` is a file or holds the current directory.
        WeightsError: a tensor has no data or a type that safetensors files do not have.
    """
    check_variant(variant)
    quantization, state = _quantization(network)
    config = {**network.config.model_dump(mode="json"), **quantization}
    stem = network.weights_name.removesuffix(".safetensors")
    most = None if max_shard_size is None else parse_bytes(max_shard_size, "max_shard_size")
    files = _files_of(state, stem, variant, most)
    with atomic_folder(folder, owns=_Owned(stem).__contains__) as aside:
        for name, state in files.items():
            write_safetensors(aside / name, state)
        if len(files) > 1:
            weight_map = {key: name for name, state in files.items() for key in sorted(state)}
            total = sum(t.numel() * t.dtype.itemsize for state in files.values() for t in state.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(aside / weights_name(stem, variant, index=True), index)
        write_json(
            aside / CONFIG_NAME, {"_class_name": type(network).__name__, "_calotype_version": __version__, **config}
        )


def read_config(cls: type[Network], folder: Path) -> dict[str, Any]:
    """The fields in the `config.json` of `folder`. Raises `RepositoryError` when it is not one of a `cls`."""
    path = folder / CONFIG_NAME
    if not folder.is_dir():
        what = f"{folder} is a file; give the folder that holds {CONFIG_NAME}"
        raise RepositoryError(what if folder.exists() else f"there is no folder {folder}{_beside(folder)}")
    whole = "; it holds a whole pipeline: give the network's folder in it as subfolder="
    what = whole if (folder / INDEX_NAME).exists() else _contents(folder)
    config = read_json_object(path, missing=f"{folder} has no {CONFIG_NAME}{what}")
    found = config.get("_class_name", cls.__name__)
    if found != cls.__name__:
        raise RepositoryError(f"{path} describes a {found!r}, not a {cls.__name__!r}; load it with that class")
    return config


def weights_path(cls: type[Network], folder: Path, variant: str | None = None) -> Path:
    """The weight file of a `cls` in `folder`, or the index of its shards. Raises `RepositoryError`, naming what there
    is instead."""
    return folder / find_weights([path.name for path in folder.iterdir()], stems(cls), variant, str(folder))


def _files_of(
    state: Mapping[str, torch.Tensor], stem: str, variant: str | None, most: int | None
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors by the name of the file that they go into."""
    sizes = {name: tensor.numel() * tensor.dtype.itemsize for name, tensor in state.items()}
    if most is None or sum(sizes.values()) <= most:
        return {weights_name(stem, variant): dict(state)}
    groups = split_into_shards(sizes, most)
    files = shard_names(stem, variant, len(groups))
    return {file: {name: state[name] for name in group} for file, group in zip(files, groups, strict=True)}


class _Owned:
    """The files of a folder that a save replaces: the configuration and every weight file, of any variant."""

    def __init__(self, stem: str) -> None:
        self._stems = {stem, *(name.removesuffix(".safetensors") for name in WEIGHTS_NAMES)}

    def __contains__(self, name: str) -> bool:
        stem = re.split(r"[.-]", name, maxsplit=1)[0]
        return name == CONFIG_NAME or (stem in self._stems and (name.endswith(".safetensors") or is_index(name)))


def _state(
    network: Network,
    file: WeightFile,
    names: Mapping[str, str],
    dtype: torch.dtype | None,
    storage: "Patterns | None",
    *,
    is_packed: bool,
) -> dict[str, torch.Tensor]:
    """The network's tensors, of the wanted type; those that are packed, or are to be, as they are kept."""
    if storage is None and not is_packed:
        return {name: _cast(file.tensor(key), dtype) for name, key in names.items()}
    from calotype.memory.storage.store import choose
    from calotype.weights.packed import encoded, packed_names

    kept = packed_names(network)
    chosen = {} if storage is None else choose(network, storage)
    fresh = {layer: precision for layer, precision in chosen.items() if f"{layer}.weight" in names}
    state = dict(encoded(network, fresh, names, file, dtype))
    plain = {name: key for name, key in names.items() if name.removesuffix(".weight") not in fresh}
    return state | {n: file.tensor(k) if n in kept else _cast(file.tensor(k), dtype) for n, k in plain.items()}


def _rest_converted(
    file: SafetensorsFile | ShardedFile, names: Mapping[str, str], state: Mapping[str, torch.Tensor]
) -> None:
    """Give the file's pages back where its numbers are in memory of another type: a large file counted twice."""
    as_read = {name: file.entries[key].dtype for name, key in names.items() if key in file.entries}
    if any(tensor.dtype != as_read.get(name, tensor.dtype) for name, tensor in state.items()):
        file.rest()


def _quantization(network: Network) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """What a configuration says of packed layers, nothing where there is none, and the state as it is written."""
    if not any(hasattr(module, "weight_shape") for module in network.modules()):
        return {}, network.state_dict()
    from calotype.weights.packed import described, written  # only a packed network needs it

    return (said := described(network)), written(network, said)


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"; it has {listed(names)}" if names else "; it is empty"


def _beside(folder: Path) -> str:
    """The folders beside one that is not there, of which one may be meant."""
    names = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
    if near := did_you_mean(folder.name, names):
        return near
    return f"; the folders there are {listed(names)}" if names and (folder.parent / INDEX_NAME).exists() else ""
