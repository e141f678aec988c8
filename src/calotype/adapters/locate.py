"""Where the file of an adapter is: a file, a folder, or a repository on a hub."""

from os import PathLike
from pathlib import Path

from calotype.adapters.formats import PEFT_CONFIG
from calotype.errors import RepositoryError, did_you_mean
from calotype.paths import path_of
from calotype.weights.repository import Repository, open_repository

NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors")
"""What the ecosystem calls such files."""
_SUFFIX = ".safetensors"
_PICKLES = (".bin", ".pt", ".ckpt", ".pth")


def locate_adapter(
    source: str | PathLike[str],
    filename: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The safetensors file that `source` means.

    Args:
        source: the file; a folder or an id on a hub that has one.
        filename: which file of several, relative to the folder.
        revision, cache_dir, local_files_only: of a repository on a hub.

    Raises:
        RepositoryError: there is no such file, there are several to choose from, or it is a pickle.
        InputError: `source` is no path.
    """
    path = path_of(source, "loading an adapter", "a file, a folder or 'owner/name'")
    if filename is None and path.is_file():
        return _not_a_pickle(path)
    if filename is None and path.suffix in (_SUFFIX, *_PICKLES):
        there = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise RepositoryError(f"there is no file {source} to load an adapter from{did_you_mean(path.name, there)}")
    repository = open_repository(source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    name = filename or _only_one(repository)
    if name not in repository.files():
        raise RepositoryError(f"{repository.name} has no file {name}{did_you_mean(name, repository.files())}")
    _not_a_pickle(Path(name))
    beside = str(Path(name).parent / PEFT_CONFIG)
    return repository.fetch([name, *([beside] if beside in repository.files() else [])]) / name


def _only_one(repository: Repository) -> str:
    files = [name for name in repository.files() if "/" not in name]
    usual = [name for name in NAMES if name in files]
    found = usual or [name for name in files if name.endswith(_SUFFIX)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RepositoryError(
            f"{repository.name} has several files that may be meant, {', '.join(found)}; write filename={found[0]!r}"
        )
    pickles = [name for name in files if name.endswith(_PICKLES)]
    if pickles:
        _not_a_pickle(Path(pickles[0]))
    raise RepositoryError(f"{repository.name} has no {_SUFFIX} file; it has {', '.join(files[:8]) or 'no files'}")


def _not_a_pickle(path: Path) -> Path:
    if path.suffix in _PICKLES:
        raise RepositoryError(
            f"{path} is a pickle, which can run code when it is read and is refused; get the safetensors file, or "
            "convert the pickle with torch.load(weights_only=True) and safetensors.torch.save_file"
        )
    return path
