"""What every source of pictures has in common: which inputs their columns are for, sizes, and what cannot be read."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field
from pydantic_core import PydanticCustomError

from calotype.errors import ConfigError, InputError, did_you_mean
from calotype.pipelines.pictures import read_picture
from calotype.training.rows import Row
from calotype.training.unopened import Unopened
from calotype.training.values import Value

logger = logging.getLogger(__name__)

CAPTIONS = ("text", "caption", "prompt", "txt")
"""What the ecosystem calls the column of captions, the usual first."""
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


@dataclass(frozen=True)
class Listed:
    """A picture of a source: what reports call it, where it is, the other inputs of its row, of a pair the picture
    that is liked less, and other inputs that are pictures."""

    name: str
    picture: Path | Unopened
    inputs: Mapping[str, Any]
    rejected: Path | None = None
    beside: Mapping[str, Path] = field(default_factory=dict)


class PictureRows(Value):
    """How pictures of a source become rows.

    Attributes:
        picture: the input that the picture is for.
        columns: the column that each other input is from; by default `prompt` is from `text`, `caption`, `prompt` or
            `txt`. None takes the pictures alone.
        buckets: give every row the input `height` and `width` of a bucket; by default all rows have the size that the
            inputs of the run say.
        check: read every picture once before the training, or its size alone.
        broken: at most so many pictures that cannot be read are left out; by default one is an error.
    """

    picture: str = "image"
    columns: Mapping[str, str] | None = {}
    buckets: Buckets | None = None
    check: Literal["whole", "size"] = "whole"
    broken: int = Field(default=0, ge=0)

    def _rows_of(self, listed: Iterable[Listed | str]) -> list[Row]:
        """The rows of what is listed; a text stands for something that could not even be listed, and says why.

        Raises:
            InputError: too many pictures cannot be read.
        """
        found = list(listed)
        with ThreadPoolExecutor() as threads:
            sizes = list(threads.map(self._size, found))
        self._refuse_broken([size for size in sizes if isinstance(size, str)])
        pairs = zip(found, sizes, strict=True)
        return [self._row(one, size) for one, size in pairs if isinstance(one, Listed) and not isinstance(size, str)]

    def _row(self, one: Listed, size: tuple[int, int]) -> Row:
        inputs = {**one.inputs, **one.beside, self.picture: one.picture}
        rejected = None if one.rejected is None else {self.picture: one.rejected}
        if self.buckets is None:
            return Row(one.name, inputs, rejected=rejected)
        bucket = self.buckets.of(*size)
        return Row(one.name, {**inputs, "height": bucket[0], "width": bucket[1]}, bucket=bucket, rejected=rejected)

    def _size(self, one: Listed | str) -> tuple[int, int] | str:
        """A picture's height and width, or what is wrong with it, with its pair or with what is beside it."""
        if isinstance(one, str):
            return one
        sizes = [self._size_of(picture) for picture in (one.picture, one.rejected, *one.beside.values()) if picture]
        return next((wrong for wrong in sizes if isinstance(wrong, str)), sizes[0])

    def _size_of(self, picture: Path | Unopened) -> tuple[int, int] | str:
        try:
            if isinstance(picture, Unopened):
                width, height = picture.open().size if self.check == "whole" else picture.size()
            elif self.check == "whole":
                width, height = read_picture(picture).size
            else:
                with Image.open(picture) as opened:
                    width, height = opened.size
        except PydanticCustomError as error:
            return error.message()
        except InputError as error:
            return str(error)
        except (OSError, ValueError, SyntaxError) as error:
            return f"{picture} is not a picture that can be read: {error}"
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

    def _columns(self, where: object, names: Iterable[str], own: str) -> dict[str, str]:
        """The column of each input, of the columns that a source has; `own` is that of the picture.

        Raises:
            InputError: there is no column of a name.
        """
        if self.columns is None:
            return {}
        there = list(names)
        wanted = dict(self.columns)
        if not wanted:
            wanted = next(({"prompt": column} for column in CAPTIONS if column in there), {})
        for column in wanted.values():
            if column not in there:
                near = did_you_mean(column, there)
                raise InputError(f"{where} has no column {column!r}{near}; it has {', '.join(there)}")
        left = [name for name in there if name != own and name not in wanted.values()]
        if left:
            logger.info("%s: the columns %s are for no input; give columns= to use them", where, ", ".join(left))
        return wanted


def chosen(where: object, line: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The inputs of a row, by the column of each. Raises `InputError` where a value is missing."""
    if lacking := [column for column in columns.values() if line.get(column) is None]:
        raise InputError(f"{where} has no {', '.join(map(repr, lacking))}")
    return {name: line[column] for name, column in columns.items()}
