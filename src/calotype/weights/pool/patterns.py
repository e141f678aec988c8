"""Patterns of file names, and the names of the shards of one file."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<rest>.*)")


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern means: `*`, `?` and `[...]` stay within one folder, `**` spans folders, `/` at the end
    is all that lies below, and nothing at all is everything."""
    parts = PurePosixPath(pattern).parts
    if not pattern or pattern.endswith("/"):
        parts = (*parts, "**")
    return [name for name in names if _fits(parts, PurePosixPath(name).parts)]


def _fits(pattern: Sequence[str], name: Sequence[str]) -> bool:
    if not pattern or not name:
        return not name and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _fits(pattern[1:], name) or _fits(pattern, name[1:])
    return fnmatchcase(name[0], pattern[0]) and _fits(pattern[1:], name[1:])


def by_model(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The names in groups: the shards of one file together, every other file by itself."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = _SHARD.fullmatch(name)
        groups.setdefault(f"{found['stem']}-*-of-{found['count']}{found['rest']}" if found else name, []).append(name)
    return [tuple(group) for group in groups.values()]


def missing_shards(names: Sequence[str]) -> list[str]:
    """The names of the shards that a set of files lacks."""
    missing = []
    for group in by_model(names):
        found = _SHARD.fullmatch(group[0])
        if found is not None:
            width = len(found["number"])
            for number in range(1, int(found["count"]) + 1):
                name = f"{found['stem']}-{number:0{width}}-of-{found['count']}{found['rest']}"
                if name not in group:
                    missing.append(name)
    return missing


def of_variant(variant: str, names: Iterable[str]) -> list[str]:
    """The files of a variant: `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`."""
    inner = re.compile(rf"\.{re.escape(variant)}[.-]")
    return [name for name in names if inner.search(PurePosixPath(name).name)]
