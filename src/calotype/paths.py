"""Paths as their owners write them."""

from os import PathLike
from pathlib import Path

from calotype.errors import InputError

_SHOWN = 120


def path_of(value: object, who: str, wanted: str = "a path") -> Path:
    """The path that `value` is, with its `~` spelled out. Raises `InputError`, which names who takes it, where it is
    none."""
    if not isinstance(value, str | PathLike):
        raise InputError(f"{who} takes {wanted}, got {type(value).__name__} {str(value)[:_SHOWN]}")
    if "\0" in str(value):
        raise InputError(f"{who} takes {wanted}, got {str(value)[:_SHOWN]!r}, which has a null character")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise InputError(f"{who} takes {wanted}, got {value}, of a user that there is not") from None
