"""What tells the files of one network from others, and makes the network of them."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from calotype.errors import ConfigError
from calotype.nn.network import Network
from calotype.weights.pool.blank import blank

Shapes = Mapping[str, tuple[int, ...]]
Keys = str | Collection[str] | Mapping[str, Sequence[int | None]]
Fields = Mapping[str, Any] | Callable[[Shapes], Mapping[str, Any]]

_SIGNS = re.compile(r"[\^$*+?{}\[\]|()]|\\[^.]")
_ENOUGH = 24


@dataclass(frozen=True)
class TellingKey:
    """A regular expression that a key of the network matches in whole, and the shape that the tensor has: None where
    any shape will do, and any length for each None in it."""

    pattern: str
    shape: tuple[int | None, ...] | None = None

    @property
    def literal(self) -> str | None:
        """The one key that the pattern matches, where there is only one."""
        return None if _SIGNS.search(self.pattern) else self.pattern.replace("\\.", ".")

    def matches(self, key: str) -> bool:
        """Whether a key, less its prefix, may be it."""
        return re.fullmatch(self.pattern, key) is not None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may be it."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(w in (None, n) for w, n in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class KnownModel:
    """A network that a pool recognises. Made by `Catalogue.with_model`, which says what each field means."""

    model_name: str
    cls: type[nn.Module]
    telling: tuple[TellingKey, ...]
    renames: tuple[tuple[str, str], ...] = ()
    fields: Fields = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    defaults: Mapping[str, float | None] = field(default_factory=dict)

    def renamed(self, key: str) -> str:
        """What the network itself calls the tensor that a file calls `key`."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def ignored(self, key: str) -> bool:
        """Whether a file may have this key although the network takes no such tensor."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignores)

    def has_default(self, name: str) -> bool:
        """Whether a file may lack this tensor."""
        return any(re.fullmatch(pattern, name) for pattern in self.defaults)

    def default(self, name: str) -> float | None:
        """The value that fills a tensor which the file lacks; None where the constructor's own stands."""
        return next(value for pattern, value in self.defaults.items() if re.fullmatch(pattern, name))


def known_model(
    model_name: str,
    cls: type[nn.Module],
    *,
    keys: Keys | None,
    renames: Mapping[str, str] | Iterable[tuple[str, str]],
    config: Fields | None,
    asks: Iterable[str],
    ignores: Iterable[str],
    defaults: Mapping[str, float | None],
) -> KnownModel:
    """See `Catalogue.with_model`."""
    if not isinstance(model_name, str) or not model_name:
        raise ConfigError(f"model_name must be a text, got {model_name!r}")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(f"{model_name!r}: cls must be a torch.nn.Module class, got {cls!r}")
    pairs = _pairs(renames)
    older = cls.renames if issubclass(cls, Network) else ()
    fields: Fields = {} if config is None else config if callable(config) else dict(config)
    if keys is None:
        keys = _own_keys(model_name, cls, fields)
    telling = tuple(_telling(keys))
    if not telling:
        raise ConfigError(f"{model_name!r}: keys must name at least one key of its files")
    model = KnownModel(model_name, cls, telling, (*pairs, *older), fields, tuple(asks), tuple(ignores), dict(defaults))
    for pattern in (*[t.pattern for t in telling], *[p for p, _ in pairs], *model.ignores, *model.defaults):
        _check_pattern(model_name, pattern)
    return model


def _telling(keys: Keys) -> Iterable[TellingKey]:
    if isinstance(keys, Mapping):
        return (TellingKey(pattern, None if shape is None else tuple(shape)) for pattern, shape in keys.items())
    return (TellingKey(pattern) for pattern in ([keys] if isinstance(keys, str) else keys))


def _pairs(renames: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if isinstance(renames, Mapping):
        return tuple((f"^{re.escape(old)}$", new.replace("\\", r"\\")) for old, new in renames.items())
    return tuple((pattern, replacement) for pattern, replacement in renames)


def _own_keys(model_name: str, cls: type[nn.Module], fields: Fields) -> list[str]:
    """Some of the network's own keys, spread over the whole of it."""
    if callable(fields):
        raise ConfigError(
            f"{model_name!r}: give keys=, patterns that tell its files from others; they are taken from the network "
            "itself only where config= is its fields and not a function"
        )
    names = list(blank(cls, fields).state_dict())
    return [re.escape(name) for name in names[:: max(1, len(names) // _ENOUGH)]]


def _check_pattern(model_name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"{model_name!r}: {pattern!r} is not a regular expression: {error}") from None
