"""Rows from tars in the layout of WebDataset: the files of one sample follow each other and share a name up to its
first dot. Tars are not unpacked: what is read is where it lies in them."""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from calotype.errors import InputError, did_you_mean
from calotype.paths import path_of
from calotype.training.picture_rows import SUFFIXES, Listed, PictureRows, chosen
from calotype.training.rows import Row
from calotype.training.unopened import TarPicture

TEXTS = frozenset({"txt", "text", "caption"})
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class PictureTars(PictureRows):
    """Pictures in tars that are not compressed, with a text or JSON of the same name beside each.

    A column is what follows the first dot of a name (`0001.txt` has `txt`), or a field of `0001.json`.

    Attributes:
        path: tars: one, a folder of such, a pattern such as `data/*.tar`, or numbered ones as `data-{000..011}.tar`.
        picture_column: what follows the first dot of the pictures' names; by default any that pictures have.
    """

    kind: Literal["tars"] = "tars"
    path: str
    picture_column: str | None = None

    def rows(self) -> list[Row]:
        """The rows, in the order of the tars and of what is in them.

        Raises:
            InputError: there is no such tar, no picture in it, a text is wrong, or too many pictures are broken.
        """
        listed = [one for tar in _tars(self.path) for one in self._listed(tar)]
        if not listed:
            raise InputError(f"data: {self.path} has no pictures; it may have {', '.join(sorted(SUFFIXES))} members")
        return self._rows_of(listed)

    def _listed(self, tar: Path) -> Iterator[Listed | str]:
        """Each picture of a tar with its inputs, and the reason where its end is missing."""
        columns: Mapping[str, str] | None = None
        try:
            with tarfile.open(tar, "r:") as archive:
                for name, members in groupby(archive, _sample):
                    parts = {_column(member): member for member in members if member.isfile()}
                    picture = self._picture(tar, parts)
                    if picture is None:
                        continue
                    try:
                        line = _line(tar, archive, parts, self.columns or {})
                    except InputError as error:
                        yield str(error)
                        continue
                    columns = self._columns(tar, line, "") if columns is None else columns
                    where = TarPicture(tar, picture.name, picture.offset_data, picture.size)
                    yield Listed(f"{tar.name}/{name}", where, chosen(f"{tar}: {name}", line, columns))
        except tarfile.ReadError as error:
            if columns is None:
                raise InputError(
                    f"data: {tar} is not a tar that can be read where it lies: {error}; decompress it first, if it is "
                    "compressed"
                ) from None
            yield f"{tar} is cut off: {error}"

    def _picture(self, tar: Path, parts: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
        """The picture of a sample, or None. Raises `InputError` where the column that was named is not there."""
        if self.picture_column is not None and self.picture_column not in parts and parts:
            near = did_you_mean(self.picture_column, parts)
            raise InputError(
                f"{tar}: {_sample(next(iter(parts.values())))} has no {self.picture_column!r}{near}; it has "
                f"{', '.join(parts)}"
            )
        wanted = [name for name in parts if self.picture_column in (None, name)]
        return next((parts[name] for name in wanted if f".{name.rpartition('.')[2].lower()}" in SUFFIXES), None)


def _tars(path: str) -> list[Path]:
    """The tars that a path, a pattern or a range of numbers names. Raises `InputError` where there is none."""
    found: list[Path] = []
    for one in _numbered(str(path_of(path, "data: path"))):
        if Path(one).is_dir():
            found += sorted(Path(one).glob("*.tar"))
        elif Path(one).is_file():
            found.append(Path(one))
        elif matches := sorted(Path(Path(one).anchor or ".").glob(one.removeprefix(Path(one).anchor))):
            found += matches
        else:
            raise InputError(f"data: there is no tar {one}")
    if not found:
        raise InputError(f"data: the folder {path} has no .tar files")
    return found


def _numbered(path: str) -> list[str]:
    """A path for each number of its ranges: `{000..011}` counts with leading zeros."""
    found = RANGE.search(path)
    if found is None:
        return [path]
    first, last = found.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [one for n in numbers for one in _numbered(path[: found.start()] + n + path[found.end() :])]


def _sample(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _column(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _line(
    tar: Path, archive: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo], columns: Mapping[str, str]
) -> dict[str, Any]:
    """What a sample says besides its picture, by column. Raises `InputError` where that cannot be read."""
    found: dict[str, Any] = {}
    for name, member in parts.items():
        if name not in TEXTS and name != "json" and name not in columns.values():
            continue
        reader = archive.extractfile(member)
        assert reader is not None, "it is a file"
        try:
            text = reader.read().decode("utf-8-sig")
            fields = json.loads(text) if name == "json" else {name: text.strip()}
        except ValueError as error:
            what = "JSON" if name == "json" else "UTF-8 text"
            raise InputError(f"{tar}: {member.name} is not {what}: {error}") from None
        if not isinstance(fields, dict):
            raise InputError(f"{tar}: {member.name} must be a JSON object, got a {type(fields).__name__}")
        found |= fields
    return found
