"""Which pipeline class a repository is for."""

from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from calotype.errors import RepositoryError
from calotype.pipelines.instead import advice
from calotype.weights.model_index import INDEX_NAME, ModelIndex
from calotype.weights.needed import where
from calotype.weights.registry import resolve
from calotype.weights.repository import Repository

T = TypeVar("T")

GROUP = "calotype.pipelines"
"""The entry point group by which an installed package offers pipeline classes, each under its own name."""


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
                f"installed package under the entry point {GROUP!r}; {advice(index.class_name, repository.name)}"
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
