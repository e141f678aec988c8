"""JSON as repositories have it, read so that nothing wrong in it passes as right."""

import json
from pathlib import Path
from typing import Any

LFS_POINTER = "version https://git-lfs"
"""What the file begins with that stands for one which Git LFS has not fetched."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `ValueError`, also for a key that is there twice, of which other readers keep
    the last."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises `OSError`, and `ValueError` that says what the file is instead."""
    text = path.read_text(encoding="utf-8")
    if text.startswith(LFS_POINTER):
        raise ValueError("it is a Git LFS pointer; run `git lfs pull` in its repository, or download the file")
    return parse_json(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
