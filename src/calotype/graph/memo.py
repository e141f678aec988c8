"""The memo: results of units across calls, addressed by what went in and by the generation of what they used.

`fingerprint`, `nbytes` and `version` are extended by type from above (arrays, pictures), so that this package needs
no array library.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import singledispatch
from typing import Any

from calotype.errors import CalotypeError
from calotype.graph.branches import Branches


class Unknowable:
    """The key of a value that cannot be told from another: equal to itself alone."""


@singledispatch
def fingerprint(value: Any) -> Hashable:
    """What a value is known by in a memo key: equal for equal content. A type that nobody registered is never equal;
    a dataclass is known by its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(fingerprint(part) for part in _parts(value))
    return Unknowable()


def knowable(key: Hashable) -> bool:
    """Whether a key can be met again."""
    return all(knowable(part) for part in key) if isinstance(key, tuple) else not isinstance(key, Unknowable)


@fingerprint.register(type(None))
@fingerprint.register(str)
@fingerprint.register(bytes)
@fingerprint.register(bool)
@fingerprint.register(int)
@fingerprint.register(float)
@fingerprint.register(Enum)
def _(value: Any) -> Hashable:
    return type(value), value


@fingerprint.register(tuple)
@fingerprint.register(list)
def _(value: Any) -> Hashable:
    return type(value), tuple(fingerprint(v) for v in value)


@fingerprint.register(dict)
def _(value: dict[Any, Any]) -> Hashable:
    return dict, tuple((k, fingerprint(v)) for k, v in sorted(value.items(), key=lambda item: str(item[0])))


@singledispatch
def nbytes(value: Any) -> int:
    """The bytes a value holds. Containers add up; other types count as Python sees them unless registered."""
    if is_dataclass(value) and not isinstance(value, type):
        return sum(nbytes(part) for part in _parts(value))
    return sys.getsizeof(value)


@nbytes.register(tuple)
@nbytes.register(list)
def _(value: Any) -> int:
    return sum(nbytes(v) for v in value)


@nbytes.register(dict)
def _(value: dict[Any, Any]) -> int:
    return sum(nbytes(v) for v in value.values())


@singledispatch
def version(value: Any) -> Hashable:
    """A token that changes when a value is changed in place, where its type can tell; else None. What cannot change
    is its own token, so that containers notice when they hold another."""
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(version(part) for part in _parts(value))
    return None


@version.register(str)
@version.register(bytes)
@version.register(bool)
@version.register(int)
@version.register(float)
@version.register(Enum)
def _(value: Any) -> Hashable:
    return type(value), value


@version.register(tuple)
@version.register(list)
def _(value: Any) -> Hashable:
    return tuple(version(v) for v in value)


@version.register(dict)
def _(value: dict[Any, Any]) -> Hashable:
    return tuple((version(k), version(v)) for k, v in value.items())


@version.register(set)
def _(value: set[Any]) -> Hashable:
    return frozenset(value)


@fingerprint.register(Branches)
def _(value: Branches[Any]) -> Hashable:
    return Branches, tuple((name, fingerprint(part)) for name, part in value.items())


@nbytes.register(Branches)
def _(value: Branches[Any]) -> int:
    return sum(nbytes(part) for _, part in value.items())


@version.register(Branches)
def _(value: Branches[Any]) -> Hashable:
    return tuple(version(part) for _, part in value.items())


def _parts(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in fields(value)]


@dataclass(frozen=True)
class MemoInfo:
    """How a memo has done: `hits` and `misses` so far, `entries` and `bytes` now held, of `capacity` bytes."""

    hits: int
    misses: int
    entries: int
    bytes: int
    capacity: int


class Memo:
    """Results of units, the least recently used dropped first. Bounded in bytes; safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[Hashable, tuple[Mapping[str, Any], int, Hashable]] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._entries

    def get(self, key: Hashable) -> Mapping[str, Any] | None:
        """The values kept under a key, by wire. Raises `CalotypeError` when one was changed in place since."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._misses += 1
                return None
        values, size, stamp = entry
        unchanged = version(dict(values)) == stamp  # without the lock: it may read all of a picture
        with self._lock:
            if self._entries.get(key) is entry:
                if unchanged:
                    self._entries.move_to_end(key)
                else:
                    del self._entries[key]
                    self._bytes -= size
            self._hits += unchanged
        if not unchanged:
            raise CalotypeError(
                f"{' or '.join(map(repr, values))} was changed in place after it was made, by a unit or by who "
                "asked for it as an output; results are shared between calls and read-only, so work on a copy"
            )
        return values

    def put(self, key: Hashable, values: Mapping[str, Any]) -> None:
        """Keep values under a key, dropping the least recently used until they fit; nothing when they never can."""
        size = nbytes(dict(values))
        if size > self.capacity:
            return
        stamp = version(dict(values))
        with self._lock:
            if key in self._entries:
                return
            while self._bytes + size > self.capacity:
                _, (_, freed, _) = self._entries.popitem(last=False)
                self._bytes -= freed
            self._entries[key] = (values, size, stamp)
            self._bytes += size

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def info(self) -> MemoInfo:
        with self._lock:
            return MemoInfo(self._hits, self._misses, len(self._entries), self._bytes, self.capacity)
