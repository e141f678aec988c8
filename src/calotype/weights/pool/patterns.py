"""Patterns of file names, and the names of the shards of one file."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<rest>.*)")


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern means: `*` and `?` stay within one folder, `**` spans folders, `/` at the end is all
    that lies below, and nothing at all is everything."""
    compiled = re.compile(_translated(pattern + "**" if pattern.endswith("/") or not pattern else pattern), re.DOTALL)
    return [name for name in names if compiled.fullmatch(name)]


def _translated(pattern: str) -> str:
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[!^]?[^\]]+\])", pattern.removeprefix("./")):
        if piece.startswith("[") and piece.endswith("]"):
            parts.append("[" + ("^" if piece[1] in "!^" else "") + piece.lstrip("[!^")[:-1].replace("\\", r"\\") + "]")
        else:
            parts.append(_SIGNS.get(piece) or re.escape(piece))
    return "".join(parts)


_SIGNS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


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
