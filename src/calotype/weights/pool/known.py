"""What tells the files of one network from others, and makes the network of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from calotype.errors import ConfigError
from calotype.nn.network import Network
from calotype.weights.pool.blank import blank
from calotype.weights.pool.layout import Keys, Layout, Shapes, telling_keys
from calotype.weights.registry import resolve

Fields = Mapping[str, Any] | Callable[[Shapes], Mapping[str, Any]]

_ENOUGH = 24


@dataclass(frozen=True)
class KnownModel:
    """A network that a pool recognises. Made by `Catalogue.with_model`, which says what each field means."""

    model_name: str
    source: type[nn.Module] | str
    """The network's class, or `"library:Class"` for one that is imported when its files are found."""
    layouts: tuple[Layout, ...]
    """How its files are spelled."""
    renames: tuple[tuple[str, str], ...] = ()
    fields: Fields = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    defaults: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def cls(self) -> type[nn.Module]:
        """The network's class. Raises `RepositoryError` when its library cannot be imported."""
        return resolve(*self.source.split(":")) if isinstance(self.source, str) else self.source

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
    cls: type[nn.Module] | str,
    *,
    keys: Keys | None,
    layouts: Iterable[Layout] = (),
    renames: Mapping[str, str] | Iterable[tuple[str, str]],
    config: Fields | None,
    asks: Iterable[str],
    ignores: Iterable[str],
    defaults: Mapping[str, float | None],
) -> KnownModel:
    """See `Catalogue.with_model`."""
    if not isinstance(model_name, str) or not model_name:
        raise ConfigError(f"model_name must be a text, got {model_name!r}")
    if not (isinstance(cls, str) and ":" in cls) and not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(f"{model_name!r}: cls must be a torch.nn.Module class, got {cls!r}")
    pairs = _pairs(model_name, renames)
    older = cls.renames if isinstance(cls, type) and issubclass(cls, Network) else ()
    fields: Fields = {} if config is None else config if callable(config) else dict(config)
    layouts = tuple(layouts)
    if keys is None and not layouts:
        keys = _own_keys(model_name, cls, fields)
    telling = () if keys is None else telling_keys(keys)
    if not telling and not layouts:
        raise ConfigError(f"{model_name!r}: keys must name at least one key of its files")
    own = (Layout(telling),) if telling else ()
    model = KnownModel(
        model_name, cls, (*own, *layouts), (*pairs, *older), fields, tuple(asks), tuple(ignores), dict(defaults)
    )
    patterns = [key.pattern for layout in model.layouts for key in layout.telling]
    for pattern in (*patterns, *model.ignores, *model.defaults):
        _check_pattern(model_name, pattern)
    for pattern, replacement in pairs:
        _check_pattern(model_name, pattern, replacement)
    return model


def _pairs(model_name: str, renames: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if isinstance(renames, Mapping):
        return tuple((f"^{re.escape(old)}$", new.replace("\\", r"\\")) for old, new in renames.items())
    pairs = tuple(renames)
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise ConfigError(f"{model_name!r}: renames are (pattern, replacement) pairs, got {pair!r}")
    return tuple((pattern, replacement) for pattern, replacement in pairs)


def _own_keys(model_name: str, cls: type[nn.Module] | str, fields: Fields) -> list[str]:
    """Some of the network's own keys, spread over the whole of it."""
    if callable(fields) or isinstance(cls, str):
        raise ConfigError(
            f"{model_name!r}: give keys=, patterns that tell its files from others; they are taken from the network "
            "itself only where config= is its fields and not a function"
        )
    names = list(blank(cls, fields).state_dict())
    return [re.escape(name) for name in names[:: max(1, len(names) // _ENOUGH)]]


def _check_pattern(model_name: str, pattern: str, replacement: str = "") -> None:
    try:
        re.sub(pattern, replacement, "")  # reads both, whether or not there is a match
    except (re.error, IndexError, TypeError) as error:
        pair = f"{pattern!r} with the replacement {replacement!r}" if replacement else repr(pattern)
        raise ConfigError(f"{model_name!r}: {pair} is not a regular expression: {error}") from None
