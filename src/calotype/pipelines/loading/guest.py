"""Guests: pipelines of the community that were written for diffusers, loaded with their own library's components."""

import importlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from packaging.version import Version

from calotype.errors import InputError, RepositoryError
from calotype.weights.model_index import INDEX_NAME, ComponentRef, ModelIndex
from calotype.weights.needed import fetch_component, where
from calotype.weights.registry import resolve
from calotype.weights.repository import Repository

LIBRARIES = frozenset({"diffusers", "transformers"})


def load_guest(
    cls: type[Any],
    repository: Repository,
    index: ModelIndex,
    components: Mapping[str, Any],
    *,
    dtype: Any = None,
    variant: str | None = None,
    device: torch.device | str | None = None,
    refused: Mapping[str, Any] | None = None,
) -> Any:
    """A pipeline of diffusers over the weights of a repository, made by its own class from safetensors files alone.

    Args:
        cls: a subclass of `diffusers.DiffusionPipeline`.
        components: components to use instead of the repository's, of diffusers or transformers; None leaves one out.
        dtype: the type of floating-point weights, float32 by default; a mapping by component name.
        variant: which of several weight files.
        device: where it runs; by default where diffusers puts it, the CPU.
        refused: options of `from_pretrained` that the caller gave and that do nothing here.

    Raises:
        InputError: one of `refused` was given.
        RepositoryError: the index names a class that is neither of diffusers nor of transformers, a component brings
            code of its own, or diffusers cannot load it.
    """
    if given := [name for name, value in (refused or {}).items() if value is not None]:
        raise InputError(f"{cls.__name__} is a pipeline of diffusers, for which {given[0]}= does nothing; leave it out")
    needed = {name: ref for name, ref in index.components.items() if ref is not None and name not in components}
    taken = _taken(cls)
    files = repository.files()
    for name, ref in needed.items():
        if name in taken:
            _check(repository, files, name, ref)
            fetch_component(repository, _class_of(ref), _place(files, name), variant)
    keyword = "dtype" if Version(version("diffusers")) >= Version("0.42") else "torch_dtype"
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, keyword: _dtypes(dtype)}
    folder = repository.fetch([INDEX_NAME])
    with _without_code(folder, cls.__name__) as shown:
        try:
            pipe = cls.from_pretrained(str(shown), **options, variant=variant, **components)
        except Exception as error:
            raise RepositoryError(f"{repository.name}: diffusers cannot load it as {cls.__name__}: {error}") from error
    pipe.register_to_config(_name_or_path=str(folder))
    return pipe if device is None else pipe.to(device)


@contextmanager
def _without_code(folder: Path, class_name: str) -> Iterator[Path]:
    """The folder as diffusers is shown it: without Python files beside the index, some of which its releases run when
    the index names them, or when one is called `None.py`, whatever class is asked to load."""
    if not any(folder.glob("*.py")):
        yield folder
        return
    with TemporaryDirectory() as place:
        view = Path(place)
        for entry in folder.iterdir():
            if entry.suffix != ".py" and entry.name != INDEX_NAME:
                (view / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        (view / INDEX_NAME).write_text(json.dumps({**index, "_class_name": class_name}), encoding="utf-8")
        yield view


def _taken(cls: type[Any]) -> Collection[str]:
    """The components that a class of diffusers takes."""
    import inspect

    return inspect.signature(cls.__init__).parameters


def _check(repository: Repository, files: Collection[str], name: str, ref: ComponentRef) -> None:
    """Refuse what would make diffusers import something because the index says so."""
    path = where(repository, INDEX_NAME)
    homes = importlib.import_module("diffusers.pipelines")
    if ref.library not in LIBRARIES and not (ref.library.isidentifier() and hasattr(homes, ref.library)):
        raise RepositoryError(
            f"{path}: {name!r} is {ref}: components come from diffusers and transformers only, and nothing else is "
            f"imported because an index says so; load it yourself and give {name}="
        )
    if f"{name}/{ref.library}.py" in files:
        raise RepositoryError(
            f"{path}: {name!r} brings code of its own, {name}/{ref.library}.py, which is not run; load the component "
            f"yourself and give {name}="
        )


def _class_of(ref: ComponentRef) -> type[Any]:
    """A class that says which files a component has."""
    if ref.library in LIBRARIES:
        return resolve(ref.library, ref.class_name)
    homes = importlib.import_module("diffusers.pipelines")
    found = getattr(getattr(homes, ref.library), ref.class_name, None)
    if not isinstance(found, type):
        raise RepositoryError(f"diffusers has no {ref}")
    return found


def _place(files: Collection[str], name: str) -> str:
    """The folder of a component: its own or, in the layout of the first DDPM repositories, the pipeline's."""
    return name if any(path.startswith(f"{name}/") for path in files) else ""


def _dtypes(dtype: Any) -> Any:
    from calotype.weights.dtypes import parse_dtype

    def one(kind: Any) -> torch.dtype | str:
        return parse_dtype(torch.float32 if kind is None else kind) or "auto"

    if isinstance(dtype, Mapping):
        return {"default": torch.float32, **{name: one(kind) for name, kind in dtype.items()}}
    return one(dtype)
