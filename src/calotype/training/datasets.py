"""Rows from data sets of the package `datasets`: of a hub, a folder, or a parquet file that has its pictures within."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from calotype.errors import ConfigError, InputError, did_you_mean
from calotype.paths import path_of
from calotype.training.picture_rows import Listed, PictureRows, chosen
from calotype.training.rows import Row
from calotype.training.unopened import Unopened

READERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}


class DatasetPicture(Unopened):
    """A picture of a data set, which stays where it is until it is needed.

    Args:
        dataset: with a column of pictures that are not decoded.
        column: which one.
        index: of the row.
    """

    def __init__(self, dataset: Any, column: str, index: int) -> None:
        self.dataset, self.column, self.index = dataset, column, index

    def __str__(self) -> str:
        return f"{self.dataset._fingerprint}/{self.column}/{self.index}"

    def __repr__(self) -> str:
        return f"DatasetPicture({self})"

    @property
    def file(self) -> None:
        return None

    def read(self) -> bytes:
        found = self.dataset[self.index][self.column]
        if found is None:
            raise OSError("there is none")
        if found["bytes"] is not None:
            content: bytes = found["bytes"]
            return content
        return Path(found["path"]).read_bytes()


class PictureDataset(PictureRows):
    """Pictures of a data set that the package `datasets` loads. They are not decoded before they are needed.

    Attributes:
        path: an id on a hub, a folder that the package saved or knows how to read, or a file such as a `.parquet`.
        config: which of several data sets of that id.
        split: which part of it.
        picture_column: the column of the pictures; by default the first that has pictures.
    """

    kind: Literal["dataset"] = "dataset"
    path: str
    config: str | None = None
    split: str = "train"
    picture_column: str | None = None

    def rows(self) -> list[Row]:
        """The rows, in the order of the data set.

        Raises:
            ConfigError: the package `datasets` is missing.
            InputError: there is no such data set, split or column, or too many pictures are broken.
        """
        return self._rows_of(self._listed(self._loaded()))

    def _loaded(self) -> Any:
        datasets, place = _package(), path_of(self.path, "data: path")
        try:
            if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
                found = datasets.load_from_disk(str(place))
                if not isinstance(found, datasets.DatasetDict):
                    return found
                if self.split not in found:
                    near = did_you_mean(self.split, found)
                    raise InputError(f"data: {place} has no split {self.split!r}{near}; it has {', '.join(found)}")
                return found[self.split]
            if place.is_file() and place.suffix in READERS:
                return datasets.load_dataset(READERS[place.suffix], data_files=str(place), split="train")
            return datasets.load_dataset(str(place) if place.exists() else self.path, self.config, split=self.split)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"data: {self.path} is no data set that can be loaded: {error}") from None

    def _listed(self, dataset: Any) -> Iterator[Listed]:
        datasets = _package()
        if not isinstance(dataset, datasets.Dataset):
            raise InputError(
                f"data: a {type(dataset).__name__} has no rows to choose from; give one split, not streamed"
            )
        column = self._picture_column(dataset, datasets)
        pictures = dataset.cast_column(column, datasets.Image(decode=False))
        columns = self._columns(self.path, dataset.column_names, column)
        lines = dataset.select_columns(sorted(set(columns.values()))) if columns else [{}] * len(dataset)
        for index, line in enumerate(lines):
            name = f"row {index}"
            yield Listed(name, DatasetPicture(pictures, column, index), chosen(f"data: {name}", line, columns))

    def _picture_column(self, dataset: Any, datasets: Any) -> str:
        there = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
        names = ", ".join(dataset.column_names)
        if self.picture_column is None:
            if not there:
                raise InputError(f"data: {self.path} has no column of pictures; name it as picture_column: {names}")
            return str(there[0])
        if self.picture_column not in dataset.column_names:
            near = did_you_mean(self.picture_column, dataset.column_names)
            raise InputError(f"data: {self.path} has no column {self.picture_column!r}{near}; it has {names}")
        return self.picture_column


def dataset_rows(dataset: Any, **fields: Any) -> list[Row]:
    """Rows of a `datasets.Dataset`, whose pictures are read when they are needed.

    Args:
        dataset: one split, not streamed.
        fields: as of `PictureDataset`, but for `path`, `config` and `split`.

    Raises:
        ConfigError, InputError: as `PictureDataset.rows`.
    """
    source = PictureDataset(path="the data set", **fields)
    return source._rows_of(source._listed(dataset))


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError("data of kind 'dataset' needs a package: pip install datasets") from None
    return datasets
