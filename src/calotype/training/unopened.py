"""Pictures that lie in something larger, such as an archive, and are read when they are needed."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from calotype.errors import InputError


class Unopened(ABC):
    """A picture that is not read yet. A row may have it where it may have a path; its text says where it is."""

    @property
    @abstractmethod
    def file(self) -> Path | None:
        """The file that it is in, whose size and time of change tell whether it changed; None where there is none."""

    @abstractmethod
    def read(self) -> bytes:
        """The picture as it is stored. Raises `OSError` where it cannot be read."""

    def open(self) -> Image.Image:
        """The picture, turned the way that it says. Raises `InputError` where it cannot be read."""
        try:
            with Image.open(io.BytesIO(self.read())) as opened:
                opened.load()
                return ImageOps.exif_transpose(opened)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{self} is not a picture that can be read: {error}") from None

    def size(self) -> tuple[int, int]:
        """Width and height as they are stored, without decoding it. Raises `InputError` where it cannot be read."""
        try:
            with Image.open(io.BytesIO(self.read())) as opened:
                return opened.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{self} is not a picture that can be read: {error}") from None


def opened(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a row with their pictures read. Raises `InputError` where one cannot be."""
    return {name: value.open() if isinstance(value, Unopened) else value for name, value in inputs.items()}


@dataclass(frozen=True)
class TarPicture(Unopened):
    """A member of a tar that is not compressed.

    Attributes:
        tar: the archive.
        member: its name in it.
        offset, length: where its bytes are.
    """

    tar: Path
    member: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.member}"

    @property
    def file(self) -> Path:
        return self.tar

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            found = file.read(self.length)
        if len(found) < self.length:
            raise OSError(f"{self.tar} ends within it")
        return found
