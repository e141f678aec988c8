"""Which pipeline class a repository is for, without loading any of it."""

from os import PathLike

from calotype.errors import InputError
from calotype.pipelines.base import DiffusionPipeline
from calotype.pipelines.custom import custom_class
from calotype.pipelines.loading import target_class
from calotype.weights.components import fetch_index
from calotype.weights.repository import open_repository


def find_pipeline(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    custom_pipeline: str | PathLike[str] | None = None,
    custom_revision: str | None = None,
) -> tuple[type[DiffusionPipeline], str]:
    """The pipeline class that `DiffusionPipeline.from_pretrained(source, ...)` would make, and the source that names
    the commit which was looked at (`"owner/name@commit"`), so that what is loaded afterwards is the same. Reads the
    index alone.

    Raises `RepositoryError` when there is no repository, or it is for a class that calotype does not have, and as
    `from_pretrained` does for `custom_pipeline`.
    """
    repository = open_repository(source, revision=revision, local_files_only=local_files_only)
    if custom_pipeline is not None:
        options = {"local_files_only": local_files_only}
        cls = custom_class(DiffusionPipeline, custom_pipeline, custom_revision, **options)
    elif custom_revision is not None:
        raise InputError(f"custom_revision={custom_revision!r} is of a custom_pipeline=, which was not given")
    else:
        cls = target_class(DiffusionPipeline, fetch_index(repository), repository)
    return cls, str(source) if repository.revision is None else f"{repository.name}@{repository.revision}"
