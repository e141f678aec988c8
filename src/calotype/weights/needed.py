"""Which files of a repository a component needs, so that no others are fetched."""

from collections.abc import Collection, Iterable
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

from calotype.errors import InputError, RepositoryError
from calotype.paths import path_of
from calotype.weights.model_index import INDEX_NAME
from calotype.weights.repository import Folder, Repository, is_id, open_repository
from calotype.weights.shards import find_weights, is_index, read_weight_map, refuse_missing

CONFIG_NAME = "config.json"
QUANTIZATION = "quantization_config"
"""The key of a `config.json` that says how weights are packed; other libraries have the same."""
WEIGHTS_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ot", ".npz", ".npy", ".pkl"}
_GRAPHS = {".onnx", ".onnx_data", ".pb", ".tflite", ".mlmodel", ".xml"}
_SHOWN = {".py", ".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp4", ".wav", ".zip", ".tar", ".gz"}
_NOT_SMALL = frozenset(_WEIGHTS | _GRAPHS | _SHOWN)
"""The ends of the names of weights, of code, and of what a repository shows; no tokenizer or scheduler reads them."""


def stems(cls: type[Any]) -> tuple[str, ...]:
    """What the weight file of a class may be called, without `.safetensors`, the likeliest first."""
    first = getattr(cls, "weights_name", None)
    if not isinstance(first, str):
        first = WEIGHTS_NAMES[cls.__module__.partition(".")[0] == "transformers"]
    return tuple(dict.fromkeys(name.removesuffix(".safetensors") for name in (first, *WEIGHTS_NAMES)))


def has_weights(cls: type[Any]) -> bool:
    """Whether components of a class have a weight file."""
    from torch import nn

    return issubclass(cls, nn.Module)


def inside(files: Iterable[str], folder: str) -> list[str]:
    """The files below a folder of a repository, with their paths in it; `""` is the repository itself."""
    return [path.removeprefix(f"{folder}/") for path in files if path.startswith(f"{folder}/")] if folder else [*files]


def where(repository: Repository, folder: str = "") -> str:
    """A folder of a repository, for messages."""
    return str(Path(repository.name).expanduser() / folder) if folder else repository.name


def component_files(cls: type[Any], files: Collection[str], variant: str | None, place: str) -> list[str]:
    """The files that a component of class `cls` is made from, shards apart, as paths in its folder.

    Args:
        files: those of its folder.
        place: the folder's name, for messages.

    Raises:
        RepositoryError: there are no weights of that variant.
    """
    direct = [path for path in files if "/" not in path]
    if not has_weights(cls):
        return [path for path in files if Path(path).suffix.lower() not in _NOT_SMALL and not path.startswith(".git")]
    weights = find_weights(direct, stems(cls), variant, place)
    return [*(path for path in direct if path.endswith(".json") and not is_index(path)), weights]


def fetch_files(repository: Repository, needed: Iterable[str]) -> Path:
    """Fetch files, and the shards of those that are indexes.

    Raises:
        WeightsError: an index lists shards that the repository does not have; all are named.
    """
    wanted = list(dict.fromkeys(needed))
    folder = repository.fetch(wanted)
    shards: list[str] = []
    there = set(repository.files())
    for path in wanted:
        if is_index(Path(path).name):
            parent = path.rpartition("/")[0]
            listed = sorted(set(read_weight_map(folder / path).values()))
            refuse_missing(where(repository, path), listed, set(inside(there, parent)))
            shards += [f"{parent}/{shard}" if parent else shard for shard in listed]
    return repository.fetch(shards) if shards else folder


def fetch_component(repository: Repository, cls: type[Any], folder: str, variant: str | None) -> Path:
    """Fetch one component of a repository, and return the folder that it lies in."""
    if isinstance(repository, Folder):
        return repository.path / folder  # everything is here: its loader says what is wrong
    files = inside(repository.files(), folder)
    place = where(repository, folder)
    if CONFIG_NAME not in files and has_weights(cls):
        raise RepositoryError(f"{place} has no {CONFIG_NAME}{_instead(repository, files, folder)}")
    names = component_files(cls, files, variant, place)
    paths = [f"{folder}/{name}" if folder else name for name in names if folder or name != INDEX_NAME]
    return fetch_files(repository, paths) / folder


def fetch_file(
    source: str | PathLike[str], subfolder: str | None, name: str, what: str, *, revision: str | None, **options: Any
) -> Path:
    """The path of one small file: `source` itself where it is a file, else the file `name` in a folder or a repository.

    Args:
        what: what the file describes, for messages.
        options: as for `open_repository`.
    """
    inner = check_subfolder(source, subfolder)
    path = path_of(source, f"loading {what}", "a file, a folder or 'owner/name'")
    if path.is_file() and subfolder is None:
        return path
    if path.exists() or not isinstance(source, str) or not is_id(source.partition("@")[0]):
        return path / inner / name  # its reader says what is wrong
    repository = open_repository(source, revision=revision, **options)
    wanted = f"{inner}/{name}" if inner else name
    files = repository.files()
    if wanted not in files:
        there = [file for file in files if file.rpartition("/")[2] == name]
        hint = f"; there is {', '.join(there)}: give its folder as subfolder=" if there else ""
        raise RepositoryError(f"{where(repository, inner)} has no {name}, so no {what}{hint}")
    return repository.fetch([wanted]) / wanted


def check_subfolder(source: str | PathLike[str], subfolder: str | None) -> str:
    """`subfolder` with `/` between its parts, `""` for none. Raises `InputError` when it leads out of `source`, or
    where one of the two is no path."""
    if not isinstance(source, str | PathLike):
        raise InputError(f"from_pretrained takes a folder or 'owner/name', got {source!r}")
    if subfolder is None:
        return ""
    if not isinstance(subfolder, str | PathLike):
        raise InputError(f"subfolder must be a path below {source}, got {subfolder!r}")
    inner = PurePath(subfolder)
    if inner.is_absolute() or ".." in inner.parts or {"\\", "\0"} & set(str(subfolder)):
        raise InputError(f"subfolder must be a path below {source}, got {subfolder!r}")
    return "" if str(inner) == "." else inner.as_posix()


def _instead(repository: Repository, files: Collection[str], folder: str) -> str:
    if INDEX_NAME in files:
        return "; it holds a whole pipeline: give the network's folder in it as subfolder="
    if files:
        return f"; it has {', '.join(sorted(files)[:8])}{', ...' if len(files) > 8 else ''}"
    folders = sorted({path.rpartition("/")[0] for path in repository.files()} - {""})
    return f"; there is no folder {folder!r}, its folders are {', '.join(folders) or 'none'}"
