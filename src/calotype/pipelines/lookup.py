"""Which pipeline class a repository is for, without loading any of it."""

from os import PathLike

from calotype.pipelines.base import DiffusionPipeline
from calotype.pipelines.loading import target_class
from calotype.weights.components import fetch_index
from calotype.weights.repository import open_repository


def find_pipeline(source: str | PathLike[str]) -> type[DiffusionPipeline]:
    """The pipeline class that `DiffusionPipeline.from_pretrained(source)` would make. Reads the index alone.

    Raises `RepositoryError` when there is no repository, or it is for a class that calotype does not have.
    """
    repository = open_repository(source)
    return target_class(DiffusionPipeline, fetch_index(repository), repository)
