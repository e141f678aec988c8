"""Where a repository is: a folder, or a model that ships with the package."""

import re
from os import PathLike
from pathlib import Path
from typing import TypeVar

from calotype.errors import RepositoryError, did_you_mean
from calotype.weights.model_index import INDEX_NAME, ModelIndex
from calotype.weights.registry import resolve

T = TypeVar("T")


def find_repository(source: str | PathLike[str]) -> Path:
    """The folder of a repository: a path, or the name of a model that ships with the package."""
    shipped = Path(__file__).parent.parent / "assets"
    if isinstance(source, str) and source.startswith("calotype/"):
        names = sorted(f"calotype/{p.name}" for p in shipped.iterdir() if p.is_dir()) if shipped.is_dir() else []
        if source not in names and not Path(source).exists():
            raise RepositoryError(
                f"no model {source!r} ships with calotype{did_you_mean(source, names)}; there is {', '.join(names)}"
            )
        if source in names:
            return shipped / source.partition("/")[2]
    folder = Path(source).expanduser()
    if not folder.exists() and isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise RepositoryError(
            f"there is no folder {source}; if this is the id of a repository on a hub: those are not loaded yet, "
            "download it and give the folder's path"
        )
    return folder


def named_class(index: ModelIndex, folder: Path, base: type[T]) -> type[T]:
    """The pipeline class that an index names: a `base` of calotype. Raises `RepositoryError` when there is none."""
    path = folder / INDEX_NAME
    try:
        found = resolve("calotype", index.class_name)
    except RepositoryError as error:
        raise RepositoryError(
            f"{path} is for a pipeline {index.class_name!r}, which calotype does not have ({error}); load it with the "
            f"pipeline class that you want: YourPipeline.from_pretrained({str(folder)!r})"
        ) from None
    if not issubclass(found, base):
        raise RepositoryError(f"{path}: '_class_name' is {index.class_name!r}, which is not a pipeline")
    return found
