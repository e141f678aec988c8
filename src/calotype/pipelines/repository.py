"""Where a repository is - a folder, a model that ships with the package, a hub - and which class it is for."""

from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from pathlib import Path
from typing import TypeVar

from calotype.errors import RepositoryError, did_you_mean
from calotype.weights.model_index import INDEX_NAME, ModelIndex
from calotype.weights.needed import where
from calotype.weights.registry import resolve
from calotype.weights.repository import Folder, Repository, open_repository

T = TypeVar("T")

GROUP = "calotype.pipelines"
"""The entry point group by which an installed package offers pipeline classes, each under its own name."""


def find_repository(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Repository:
    """A repository: a path, the name of a model that ships with the package, or an id on a hub. See
    `open_repository`."""
    shipped = Path(__file__).parent.parent / "assets"
    if isinstance(source, str) and source.startswith("calotype/"):
        names = sorted(f"calotype/{p.name}" for p in shipped.iterdir() if p.is_dir()) if shipped.is_dir() else []
        if source not in names and not Path(source).exists():
            raise RepositoryError(
                f"no model {source!r} ships with calotype{did_you_mean(source, names)}; there is {', '.join(names)}"
            )
        if source in names:
            if revision is not None:
                raise RepositoryError(f"{source} ships with calotype and has no revisions; leave out {revision=}")
            return Folder(shipped / source.partition("/")[2])
    return open_repository(source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)


def named_class(index: ModelIndex, repository: Repository, base: type[T]) -> type[T]:
    """The pipeline class that an index names: a `base` of calotype, or of an installed package that offers it under
    the entry point group `GROUP`. Nothing else is imported.

    Raises:
        RepositoryError: there is none, two packages offer it, or it cannot be imported.
    """
    path = where(repository, INDEX_NAME)
    try:
        found: object = resolve("calotype", index.class_name)
    except RepositoryError as error:
        offered = [point for point in entry_points(group=GROUP) if point.name == index.class_name]
        if not offered:
            raise RepositoryError(
                f"{path} is for a pipeline {index.class_name!r}, which calotype does not have ({error}), nor any "
                f"installed package under the entry point {GROUP!r}; install the package that has it, or load it with "
                f"the pipeline class that you want: YourPipeline.from_pretrained({repository.name!r})"
            ) from None
        found = _offered_class(path, offered)
    if not isinstance(found, type) or not issubclass(found, base):
        raise RepositoryError(f"{path}: '_class_name' is {index.class_name!r}, which is not a pipeline")
    return found


def _offered_class(path: str, offered: list[EntryPoint]) -> object:
    """The class behind an entry point."""
    if len({point.value for point in offered}) > 1:
        packages = ", ".join(f"{point.dist.name if point.dist else '?'} ({point.value})" for point in offered)
        raise RepositoryError(
            f"{path}: several installed packages offer {offered[0].name!r}: {packages}; load it with the class itself"
        )
    point = offered[0]
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else "an installed package"
        raise RepositoryError(
            f"{path}: {package} offers {point.name!r} as {point.value}, which cannot be imported: {error}"
        ) from error
