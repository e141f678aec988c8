"""Which pipeline class a repository is for, told from its index: nothing else of it is loaded."""

from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from calotype.errors import InputError, RepositoryError
from calotype.pipelines.loading.custom import carried_class, custom_class
from calotype.pipelines.loading.instead import advice
from calotype.weights.components import fetch_index
from calotype.weights.model_index import INDEX_NAME, ModelIndex
from calotype.weights.needed import where
from calotype.weights.registry import resolve
from calotype.weights.repository import Repository, open_repository

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

P = TypeVar("P", bound="DiffusionPipeline")
T = TypeVar("T")

GROUP = "calotype.pipelines"
"""The entry point group by which an installed package offers pipeline classes, each under its own name."""


def find_pipeline(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    custom_pipeline: str | PathLike[str] | None = None,
    custom_revision: str | None = None,
) -> tuple[type["DiffusionPipeline"], str]:
    """The pipeline class that `DiffusionPipeline.from_pretrained(source, ...)` would make, and the source that names
    the commit which was looked at (`"owner/name@commit"`), so that what is loaded afterwards is the same.

    Raises `RepositoryError` when there is no repository, or it is for a class that calotype does not have, and as
    `from_pretrained` does for `custom_pipeline`.
    """
    from calotype.pipelines.base import DiffusionPipeline  # it loads by this module

    repository = open_repository(source, revision=revision, local_files_only=local_files_only)
    custom = asked_class(DiffusionPipeline, custom_pipeline, custom_revision, local_files_only=local_files_only)
    cls = custom or target_class(DiffusionPipeline, fetch_index(repository), repository)
    return cls, str(source) if repository.revision is None else f"{repository.name}@{repository.revision}"


def asked_class(
    cls: type[P], custom_pipeline: str | PathLike[str] | None, custom_revision: str | None, **options: Any
) -> type[P] | None:
    """The class that `custom_pipeline=` asks for, with the options of `custom_class`; None where it is not given."""
    if custom_pipeline is not None:
        return custom_class(cls, custom_pipeline, custom_revision, **options)
    if custom_revision is not None:
        raise InputError(f"custom_revision={custom_revision!r} is of a custom_pipeline=, which was not given")
    return None


def target_class(cls: type[P], index: ModelIndex, repository: Repository) -> type[P]:
    """The class to make: `cls`, or the index's where `cls` is the base. A repository that carries the code of its class
    is asked for it only then, and the code runs only if it was approved."""
    from calotype.pipelines.base import DiffusionPipeline  # it loads by this module

    if cls is not DiffusionPipeline:
        return cls
    if index.code is None:
        return named_class(index, repository, cls)
    found: type[P] = carried_class(repository, index.code, index.class_name)
    return found


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
