"""Rows from folders of pictures, with captions beside them or in a table, and from texts alone; and every source that a
file may name."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from calotype.errors import ConfigError, InputError
from calotype.paths import path_of
from calotype.training.datasets import PictureDataset
from calotype.training.picture_rows import SUFFIXES, Listed, PictureRows, chosen
from calotype.training.rows import Row
from calotype.training.tars import PictureTars
from calotype.training.values import Value

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE = "file_name"


class PictureFolder(PictureRows):
    """Pictures of a folder and all below it.

    Captions are in `metadata.jsonl`, `.csv` or `.parquet`, whose column `file_name` has each picture's path in the
    folder, or beside each picture in a file of its name that ends in `.txt`. Without either the pictures are all there
    is to a row.

    Attributes:
        path: the folder.
        rejected: of pairs, the column of the table that has the path of the picture that is liked less.
        pictures: for each other input that is a picture, the column of the table that has its path in the folder.
    """

    kind: Literal["folder"] = "folder"
    path: str
    rejected: str | None = None
    pictures: Mapping[str, str] = {}

    def rows(self) -> list[Row]:
        """The rows, in the order of the table or of the names.

        Raises:
            InputError: there is no such folder, no picture in it, a table is wrong, or too many pictures are broken.
        """
        folder = path_of(self.path, "data: path", "the path of a folder")
        if not folder.is_dir():
            raise InputError(f"data: there is no folder {folder}")
        listed = list(self._listed(folder))
        if not listed:
            raise InputError(f"data: {folder} has no pictures; it may have {', '.join(sorted(SUFFIXES))} files")
        return self._rows_of(listed)

    def _listed(self, folder: Path) -> Iterator[Listed | str]:
        """Each picture with its inputs, or why its caption cannot be read."""
        table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
        if table is not None:
            yield from self._from_table(folder, table)
            return
        for field, column in self._paths():
            raise InputError(f"data: {field}={column!r} is a column of {' or '.join(TABLES)}, and {folder} has none")
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            beside = path.with_suffix(".txt")
            captioned = self.columns is not None and beside.is_file()
            try:
                yield Listed(_named(folder, path), path, {"prompt": _text(beside).strip()} if captioned else {})
            except InputError as error:
                yield str(error)

    def _from_table(self, folder: Path, table: Path) -> Iterator[Listed]:
        columns: Mapping[str, str] | None = None
        for number, line in enumerate(_read_table(table), 1):
            if FILE not in line:
                raise InputError(f"{table}: row {number} has no {FILE!r}; it has {', '.join(map(str, line))}")
            where, path = f"{table}: row {number} ({line[FILE]})", folder / str(line[FILE])
            paths = [column for _, column in self._paths()]
            others = [name for name in line if name not in paths]
            columns = self._columns(table, others, FILE) if columns is None else columns
            worse = None if self.rejected is None else folder / chosen(where, line, {"": self.rejected})[""]
            beside = {name: folder / value for name, value in chosen(where, line, self.pictures).items()}
            yield Listed(_named(folder, path), path, chosen(where, line, columns), worse, beside)

    def _paths(self) -> list[tuple[str, str]]:
        """The columns that hold paths, and what says so."""
        worse = [] if self.rejected is None else [("rejected", self.rejected)]
        return worse + [(f"pictures.{name}", column) for name, column in self.pictures.items()]


class TextFile(Value):
    """Texts alone, each a line of a file: data for objectives with a teacher.

    Attributes:
        path: the file, in UTF-8. Empty lines are left out.
        input: the input that they are for.
    """

    kind: Literal["texts"] = "texts"
    path: str
    input: str = "prompt"

    def rows(self) -> list[Row]:
        """The rows, in the order of the lines. Raises `InputError` where the file cannot be read, or has no texts."""
        path = path_of(self.path, "data: path", "the path of a file")
        try:
            lines = enumerate(map(str.strip, _text(path).split("\n")), 1)
        except OSError as error:
            raise InputError(f"data: {path} cannot be read: {error}") from None
        found = [Row(f"{path.name}: line {number}", {self.input: line}) for number, line in lines if line]
        if not found:
            raise InputError(f"data: {path} has no texts")
        return found


def _kind(value: Any) -> Any:
    return value.get("kind", "folder") if isinstance(value, Mapping) else getattr(value, "kind", None)


AnyData = Annotated[
    Annotated[PictureFolder, Tag("folder")]
    | Annotated[PictureTars, Tag("tars")]
    | Annotated[PictureDataset, Tag("dataset")]
    | Annotated[TextFile, Tag("texts")],
    Discriminator(_kind),
]


def _named(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table by column. Raises `InputError`, with the line, for one that is wrong."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise ConfigError(f"{path} needs the package pyarrow: pip install pyarrow") from None
        try:
            yield from parquet.read_table(path).to_pylist()
        except (OSError, ValueError) as error:  # of which pyarrow's own are
            raise InputError(f"{path} is not a parquet file that can be read: {error}") from None
    elif path.suffix == ".csv":
        for number, line in enumerate(csv.DictReader(io.StringIO(_text(path), newline="")), 1):
            if None in line:
                raise InputError(
                    f"{path}: row {number} has more values than there are columns; quote texts with commas"
                )
            yield line
    else:
        for number, text in enumerate(_text(path).split("\n"), 1):
            if text.strip():
                yield _parsed(path, number, text)


def _text(path: Path) -> str:
    """What a text file says, its line ends as they are. Raises `InputError` where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from None


def _parsed(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: line {number} must be a JSON object, got a {type(found).__name__}")
    return found
