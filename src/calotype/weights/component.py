"""One network's folder: a `config.json` beside one safetensors file.

Loading builds the network without memory for its parameters, maps the file and assigns the mapped tensors: no second
copy is made, and where the file's type is the wanted one, no copy at all. Loading is strict.
"""

import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from calotype import __version__
from calotype.atomic import atomic_folder
from calotype.errors import ConfigError, InputError, RepositoryError, WeightsError, did_you_mean
from calotype.nn.network import Network
from calotype.weights.files import SafetensorsFile, write_safetensors
from calotype.weights.model_index import INDEX_NAME, read_json_object, write_json

CONFIG_NAME = "config.json"
WEIGHTS_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")

N = TypeVar("N", bound=Network)
_SHOWN = 8
_RANDOM = frozenset({torch.empty, torch.rand, torch.randn})
_FILLS = frozenset({init.kaiming_uniform_, init.uniform_, init.normal_})
_FLOATS = ("float32", "float16", "bfloat16", "float64")


def load_network(cls: type[N], folder: Path, *, dtype: torch.dtype | str | None = None) -> N:
    """The network of class `cls` in `folder`, in evaluation mode.

    Args:
        cls: the class that the folder's `config.json` describes.
        folder: a folder with a `config.json` and a safetensors file of one of `WEIGHTS_NAMES`.
        dtype: the type of its floating-point tensors, by default `torch.float32` whatever the file has; `"auto"` keeps
            the file's. A tensor that has the type already is the mapped file; others are converted one at a time.

    Raises:
        RepositoryError: a file is missing, `config.json` is not a JSON object, or it describes another class.
        ConfigError: `cls` does not take the configuration.
        WeightsError: the weight file is damaged, or its keys and shapes are not exactly the network's.
    """
    wanted = parse_dtype(torch.float32 if dtype is None else dtype)
    config = read_config(cls, folder)
    file = SafetensorsFile(weights_path(cls, folder))
    try:
        with _ParametersWithoutMemory():
            network = cls(**config)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_NAME}: {error}") from None
    names = _match(network, file)
    state = {name: _cast(file.tensor(key), wanted) for name, key in names.items()}
    network.load_state_dict(state, strict=True, assign=True)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta:
            raise WeightsError(f"{cls.__name__}: {name!r} is neither in the file nor computed by the constructor")
    return network.eval()


def save_network(network: Network, folder: Path) -> None:
    """Write `network` to `folder` in the layout that `load_network` reads. Atomic: an interrupted save changes nothing.

    Raises:
        RepositoryError: `folder` is a file or holds the current directory.
        WeightsError: a tensor has no data or a type that safetensors files do not have.
    """
    config = network.config.model_dump(mode="json")
    owned = {CONFIG_NAME, *WEIGHTS_NAMES, network.weights_name}
    with atomic_folder(folder, owns=owned.__contains__) as aside:
        write_safetensors(aside / network.weights_name, network.state_dict())
        write_json(
            aside / CONFIG_NAME, {"_class_name": type(network).__name__, "_calotype_version": __version__, **config}
        )


def read_config(cls: type[Network], folder: Path) -> dict[str, Any]:
    """The fields in the `config.json` of `folder`. Raises `RepositoryError` when it is not one of a `cls`."""
    path = folder / CONFIG_NAME
    if not folder.is_dir():
        what = f"{folder} is a file; give the folder that holds {CONFIG_NAME}"
        raise RepositoryError(what if folder.exists() else f"there is no folder {folder}")
    whole = "; it holds a whole pipeline: give the network's folder in it as subfolder="
    what = whole if (folder / INDEX_NAME).exists() else _contents(folder)
    config = read_json_object(path, missing=f"{folder} has no {CONFIG_NAME}{what}")
    found = config.get("_class_name", cls.__name__)
    if found != cls.__name__:
        raise RepositoryError(f"{path} describes a {found!r}, not a {cls.__name__!r}; load it with that class")
    return config


def weights_path(cls: type[Network], folder: Path) -> Path:
    """The weight file of a `cls` in `folder`. Raises `RepositoryError`, naming what there is instead."""
    for name in dict.fromkeys((cls.weights_name, *WEIGHTS_NAMES)):
        if (folder / name).exists():
            return folder / name
    wanted = f"{folder} has no {cls.weights_name}"
    if shards := sorted(folder.glob("*.safetensors.index.json")):
        raise RepositoryError(f"{wanted}, but the index of a sharded file, {shards[0].name}, which is not read yet")
    if pickles := sorted(path.name for suffix in ("bin", "pt", "ckpt", "pth") for path in folder.glob(f"*.{suffix}")):
        raise RepositoryError(
            f"{wanted}, only {pickles[0]}, a pickle, which can run code when it is read and is refused; get the "
            "safetensors file, or convert the pickle with torch.load(weights_only=True) and safetensors.torch.save_file"
        )
    raise RepositoryError(f"{wanted}{_contents(folder)}")


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype | None:
    """The floating-point type that `dtype` is or names; `None` for `"auto"`, the file's own.

    Raises:
        InputError: it is not one.
    """
    if dtype == "auto":
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        near = did_you_mean(dtype, (*_FLOATS, "auto")) if isinstance(dtype, str) else ""
        raise InputError(f"dtype must be a floating-point torch.dtype, its name or 'auto', got {dtype!r}{near}")
    return found


A = TypeVar("A")
B = TypeVar("B")


def one_dtype(dtype: A, torch_dtype: B) -> A | B:
    """Whichever of the two synonyms was given. Raises `InputError` when both were."""
    if dtype is not None and torch_dtype is not None:
        raise InputError(f"dtype={dtype!r} and torch_dtype={torch_dtype!r} mean the same; give one of them")
    return torch_dtype if dtype is None else dtype


def local_folder(folder: str | PathLike[str], subfolder: str | None = None) -> Path:
    """`folder`, or `subfolder` in it. Raises `InputError` when the subfolder leads out of it."""
    path = Path(folder).expanduser()
    if subfolder is None:
        return path
    inner = Path(subfolder)
    if inner.is_absolute() or ".." in inner.parts:
        raise InputError(f"subfolder must be a path below {path}, got {subfolder!r}")
    return path / inner


class _ParametersWithoutMemory(TorchFunctionMode):
    """Inside, tensors that are made to be filled from a file take no memory: those of `torch.empty`, which layers make
    their parameters with, and random ones; initial values for them are not drawn. Everything that is computed stays
    real, so that buffers which no file holds are right."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS and kwargs["tensor"].is_meta:
            return kwargs["tensor"]
        if func in _RANDOM and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _match(network: Network, file: SafetensorsFile) -> dict[str, str]:
    """The key in the file of every tensor of the network. Raises `WeightsError` unless they match one to one."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    keys = {_renamed(key, network.renames, expected): key for key in file.entries}
    shapes = {name: file.entries[key].shape for name, key in keys.items()}
    problems = [
        *_listed("missing", [repr(name) for name in expected if name not in keys]),
        *_listed("unexpected", [repr(key) for name, key in keys.items() if name not in expected]),
        *_listed("misshapen", list(_misshapen(expected, shapes))),
    ]
    if len(keys) < len(file.entries):
        lost = sorted(set(file.entries) - set(keys.values()))
        problems += _listed("repeated under an older name", [repr(key) for key in lost])
    if problems:
        hint = _prefix_hint(expected, file.entries)
        raise WeightsError(f"{file.path} does not fit {type(network).__name__}: {'; '.join(problems)}{hint}")
    return {name: keys[name] for name in expected}


def _renamed(key: str, renames: Iterable[tuple[str, str]], expected: Mapping[str, object]) -> str:
    if key in expected:
        return key
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _misshapen(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            yield f"{name!r} is {list(found[name])}, expected {list(shape)}"


def _listed(what: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return [f"{len(items)} {what}: {', '.join(items[:_SHOWN])}{more}"]


def _prefix_hint(expected: Iterable[str], found: Iterable[str]) -> str:
    """What to do when the keys of the file differ from the expected ones by one prefix only."""
    names, keys = set(expected), set(found)
    if not names or not keys:
        return ""
    for sign, longer, shorter in (("without", keys, names), ("with", names, keys)):
        probe = min(shorter)
        for key in longer:
            prefix = key.removesuffix(probe)
            if prefix and prefix != key and {prefix + name for name in shorter} <= longer:
                return f"; did you mean the same keys {sign} the prefix {prefix!r}? Rename them and save the file again"
    return ""


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"; it has {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}" if names else "; it is empty"
