"""Names of the pictures that are written, and care for the files that are there already."""

import os
import re
import unicodedata
from pathlib import Path

import click

from calotype.errors import InputError
from calotype.pipelines.result import picture_paths

LONGEST = 60


def name_of(text: str) -> str:
    """A file name for a prompt: `a-red-apple`."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())
    name = ""
    for word in words:
        if name and len(name) + len(word) >= LONGEST:
            break
        name = f"{name}-{word}" if name else word[:LONGEST]
    return name or "picture"


def free_path(path: Path, count: int) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... under which `count` pictures overwrite nothing."""
    number, candidate = 1, path
    while any(os.path.lexists(p) for p in picture_paths(candidate, count)):
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def output_path(given: Path | None, name: str, count: int, force: bool) -> Path:
    """Where `count` pictures go: the path that was given, or one after `name` that overwrites nothing.

    Raises `click.UsageError` when the path is no PNG file, cannot be written or would overwrite one.
    """
    if given is None or given.is_dir():
        path = (given or Path()) / f"{name}.png"
        path = path if force else free_path(path, count)
    else:
        path = given
    try:
        paths = picture_paths(path, count)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    refuse_to_overwrite(paths, force)
    refuse_unwritable(path.parent)
    return path


def refuse_to_overwrite(paths: list[Path], force: bool) -> None:
    """Raise `click.UsageError` when one of the files is there already, unless that is wanted."""
    there = [p for p in paths if os.path.lexists(p)]
    if folders := [p for p in there if p.is_dir()]:
        raise click.UsageError(f"{folders[0]} is a folder; give the name of a file in it")
    if there and not force:
        verb = "is" if len(there) == 1 else "are"
        raise click.UsageError(
            f"{', '.join(map(str, there))} {verb} there already; give another name, or --force to replace it"
        )


def refuse_unwritable(folder: Path) -> None:
    """Make the folder where it is missing. Raises `click.UsageError` when files cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise click.UsageError(f"{folder} is not a folder, so no picture can be written in it") from None
    except OSError as error:
        raise click.UsageError(f"the folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.UsageError(f"the folder {folder} cannot be written to")
