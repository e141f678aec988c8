"""Paths as their owners write them."""

import os
from os import PathLike
from pathlib import Path

from calotype.errors import InputError

_SHOWN = 120

LONGEST_NAME = 255
"""How many bytes file systems take for a name."""

LONGEST_PATH = 4096
"""How many bytes they take for a whole path."""


def path_of(value: object, who: str, wanted: str = "a path") -> Path:
    """The path that `value` is, with its `~` spelled out. Raises `InputError`, which names who takes it, where it is
    none."""
    if not isinstance(value, str | PathLike):
        raise InputError(f"{who} takes {wanted}, got {type(value).__name__} {str(value)[:_SHOWN]}")
    if why := _impossible(str(value)):
        raise InputError(f"{who} takes {wanted}, got {str(value)[:_SHOWN]!r}, which {why}")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise InputError(f"{who} takes {wanted}, got {value}, of a user that there is not") from None


def _impossible(text: str) -> str:
    """Why no file can have a path; empty where one can."""
    if "\0" in text:
        return "has a null character"
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return "has a character that no name can have"
    if len(encoded) > LONGEST_PATH:
        return f"is {len(encoded)} bytes long; file systems take {LONGEST_PATH}"
    longest = max(len(name) for name in encoded.split(os.fsencode(os.sep)))
    return f"has a name of {longest} bytes; file systems take {LONGEST_NAME}" if longest > LONGEST_NAME else ""
