"""Rows from folders of pictures, with captions beside them or in a table."""

import csv
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field
from pydantic_core import PydanticCustomError

from calotype.errors import ConfigError, InputError, did_you_mean
from calotype.pipelines.pictures import read_picture
from calotype.training.rows import Row
from calotype.training.values import Value

logger = logging.getLogger(__name__)

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE = "file_name"
CAPTIONS = ("text", "caption", "prompt")
"""What tables of the ecosystem call the column of captions, the usual first."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SHOWN = 5


class Buckets(Value):
    """Sizes for pictures of different shapes: each gets the one whose ratio of sides is the nearest to its own.

    Attributes:
        area: the most pixels.
        multiple: sides are multiples of it.
        longest: the most that one side is longer than the other.
    """

    area: int = Field(default=512 * 512, ge=1)
    multiple: int = Field(default=64, ge=1)
    longest: float = Field(default=2.0, ge=1.0)

    def sizes(self) -> list[tuple[int, int]]:
        """Every (height, width) there is: for each width the greatest height that fits."""
        found = []
        for width in range(self.multiple, self.area // self.multiple + 1, self.multiple):
            height = self.area // width // self.multiple * self.multiple
            if height and max(width / height, height / width) <= self.longest:
                found.append((height, width))
        if not found:
            raise ConfigError(
                f"buckets: no size of {self.multiple} pixels fits an area of {self.area}; give a larger one"
            )
        return found

    def of(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) for a picture of this size."""
        return min(
            self.sizes(), key=lambda size: (abs(math.log(size[0] / size[1] * width / height)), -size[0] * size[1])
        )


class PictureFolder(Value):
    """Pictures of a folder and all below it.

    Captions are in `metadata.jsonl`, `.csv` or `.parquet`, whose column `file_name` has each picture's path in the
    folder, or beside each picture in a file of its name that ends in `.txt`. Without either the pictures are all there
    is to a row.

    Attributes:
        path: the folder.
        picture: the input that the picture is for.
        columns: the column of the table that each other input is from; by default `prompt` is from `text`, `caption` or
            `prompt`.
        buckets: give every row the input `height` and `width` of a bucket; by default all rows have the size that the
            inputs of the run say.
        check: read every picture once before the training, or its size alone.
        broken: at most so many pictures that cannot be read are left out; by default one is an error.
    """

    kind: Literal["folder"] = "folder"
    path: str
    picture: str = "image"
    columns: Mapping[str, str] = {}
    buckets: Buckets | None = None
    check: Literal["whole", "size"] = "whole"
    broken: int = Field(default=0, ge=0)

    def rows(self) -> list[Row]:
        """The rows, in the order of the table or of the names.

        Raises:
            InputError: there is no such folder, no picture in it, a table is wrong, or too many pictures are broken.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise InputError(f"data: there is no folder {folder}")
        listed = list(self._listed(folder))
        if not listed:
            raise InputError(f"data: {folder} has no pictures; it may have {', '.join(sorted(SUFFIXES))} files")
        with ThreadPoolExecutor() as threads:
            sizes = list(threads.map(self._size, [path for path, _ in listed]))
        broken = [found for found in sizes if isinstance(found, str)]
        self._refuse_broken(broken)
        return [
            self._row(folder, path, inputs, size)
            for (path, inputs), size in zip(listed, sizes, strict=True)
            if not isinstance(size, str)
        ]

    def _listed(self, folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Each picture with its inputs."""
        table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
        if table is not None:
            yield from self._from_table(folder, table)
            return
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            beside = path.with_suffix(".txt")
            yield path, {"prompt": _text(beside).strip()} if beside.is_file() else {}

    def _from_table(self, folder: Path, table: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        columns: Mapping[str, str] | None = None
        for number, line in enumerate(_read_table(table), 1):
            if FILE not in line:
                raise InputError(f"{table}: row {number} has no {FILE!r}; it has {', '.join(map(str, line))}")
            columns = self._columns(table, line) if columns is None else columns
            if lacking := [column for column in columns.values() if line.get(column) is None]:
                raise InputError(f"{table}: row {number} ({line[FILE]}) has no {', '.join(map(repr, lacking))}")
            yield folder / str(line[FILE]), {name: line[column] for name, column in columns.items()}

    def _columns(self, table: Path, line: Mapping[str, Any]) -> dict[str, str]:
        """The column of each input, from the first row."""
        wanted = dict(self.columns)
        if not wanted:
            wanted = next(({"prompt": column} for column in CAPTIONS if column in line), {})
        for column in wanted.values():
            if column not in line:
                near = did_you_mean(column, line)
                raise InputError(f"{table} has no column {column!r}{near}; it has {', '.join(map(str, line))}")
        left = [name for name in line if name != FILE and name not in wanted.values()]
        if left:
            logger.info("%s: the columns %s are for no input; give columns= to use them", table, ", ".join(left))
        return wanted

    def _size(self, path: Path) -> tuple[int, int] | str:
        """A picture's height and width, or what is wrong with it."""
        try:
            if self.check == "whole":
                width, height = read_picture(path).size
            else:
                with Image.open(path) as opened:
                    width, height = opened.size
        except PydanticCustomError as error:
            return error.message()
        except (OSError, ValueError, SyntaxError) as error:
            return f"{path} is not a picture that can be read: {error}"
        return height, width

    def _refuse_broken(self, broken: Sequence[str]) -> None:
        for found in broken:
            logger.warning("left out: %s", found)
        if len(broken) > self.broken:
            more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
            raise InputError(
                f"data: {len(broken)} pictures cannot be read, and broken={self.broken}: "
                f"{'; '.join(broken[:SHOWN])}{more}"
            )

    def _row(self, folder: Path, path: Path, inputs: Mapping[str, Any], size: tuple[int, int]) -> Row:
        name = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
        if self.buckets is None:
            return Row(name, {**inputs, self.picture: path})
        bucket = self.buckets.of(*size)
        return Row(name, {**inputs, self.picture: path, "height": bucket[0], "width": bucket[1]}, bucket=bucket)


AnyData = PictureFolder


def _read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table by column. Raises `InputError`, with the line, for one that is wrong."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise ConfigError(f"{path} needs the package pyarrow: pip install pyarrow") from None
        yield from parquet.read_table(path).to_pylist()
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
