"""Which known models a set of tensors holds, from their names and shapes alone."""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calotype.errors import ConfigError
from calotype.nn.network import Network
from calotype.weights.pool.blank import blank
from calotype.weights.pool.known import KnownModel, Shapes, TellingKey

RECOGNISED = 0.75
"""The share of a network's tensors that a file must have, by name and shape, to be recognised as one of it."""


@dataclass(frozen=True)
class Match:
    """How well the tensors below one prefix are those of one model."""

    model: KnownModel
    prefix: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The constructor's keywords."""
    asked: tuple[str, ...] = ()
    """The keywords that nothing told and that must be given."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The file's key of every tensor of the network that is there in its shape."""
    missing: tuple[str, ...] = ()
    """Names of the network's tensors that the file lacks, without those that have a default."""
    misshapen: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with each of the file's tensors that has another shape, by key."""
    filled: tuple[str, ...] = ()
    """Names of tensors that the file lacks and a default fills."""
    extra: tuple[str, ...] = ()
    """Keys of the file below the prefix that no recognised model takes."""
    score: float = 0.0
    """The share of the network's tensors that are there in their shape."""
    failure: str = ""
    """Why no network could be made to compare with."""

    @property
    def complete(self) -> bool:
        """Whether every tensor is there, or has a default."""
        return not (self.failure or self.missing or self.misshapen)


@dataclass(frozen=True)
class Recognition:
    """The models in a set of tensors."""

    matches: tuple[Match, ...]
    """The best for each place, and every other model that the same tensors are complete for."""
    nearest: tuple[Match, ...]
    """What came nearest, where nothing was recognised."""
    unclaimed: tuple[str, ...]
    """The keys that belong to no recognised model and lie below no prefix of one."""


def recognise(
    models: Iterable[KnownModel],
    shapes: Shapes,
    *,
    published: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Recognition:
    """The known models whose tensors these are.

    Args:
        shapes: the shape of every tensor by its key.
        published: the `config.json` beside the files; it is taken for the class that it names, or for any if it names
            none.
        given: keywords that the caller gives.
    """
    compare = _Comparison(shapes, published or {}, given or {})
    found = [compare.match(model, prefix) for model in models for prefix in compare.prefixes(model, enough=0.5)]
    found.sort(key=lambda match: (-len(match.keys), len(match.missing) + len(match.misshapen)))
    accepted = _choose([match for match in found if match.score >= RECOGNISED])
    if accepted:
        return _with_extras(accepted, shapes)
    near = found or [compare.match(model, prefix) for model in models for prefix in compare.prefixes(model, enough=0)]
    near.sort(key=lambda match: -match.score)
    return Recognition((), tuple(near[:3]), tuple(shapes))


def _choose(found: Sequence[Match]) -> list[Match]:
    """The matches to keep, of those that are ordered best first: none takes tensors that a better one has, unless it is
    another complete reading of all of them."""
    accepted: list[Match] = []
    claimed: dict[str, str] = {}
    for match in found:
        rivals = {claimed[key] for key in match.keys.values() if key in claimed}
        if not rivals or (match.complete and rivals == {match.prefix}):
            accepted.append(match)
            claimed |= dict.fromkeys(match.keys.values(), match.prefix)
    return accepted


def _with_extras(accepted: Iterable[Match], shapes: Shapes) -> Recognition:
    """Every key that no match takes is an extra one of the match with the longest prefix that it lies below."""
    accepted = list(accepted)
    claimed = {key for match in accepted for key in match.keys.values()}
    prefixes = sorted({match.prefix for match in accepted}, key=len, reverse=True)
    extras: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    unclaimed: list[str] = []
    for key in shapes:
        if key not in claimed:
            home = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
            (unclaimed if home is None else extras[home]).append(key)
    matches = tuple(
        replace(match, extra=tuple(key for key in extras[match.prefix] if not _accounted_for(match, key)))
        for match in accepted
    )
    return Recognition(matches, (), tuple(unclaimed))


def _accounted_for(match: Match, key: str) -> bool:
    """Whether a key that no model takes is known all the same: of the wrong shape, or to be ignored."""
    return key in match.misshapen or match.model.ignored(key.removeprefix(match.prefix))


class _Comparison:
    """Compares one set of tensors with models, and builds each network once."""

    def __init__(self, shapes: Shapes, published: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.shapes, self.given = shapes, given
        self.class_name = published.get("_class_name")
        self.published = {name: value for name, value in published.items() if not name.startswith("_")}
        self._built: dict[tuple[type, str], Shapes] = {}
        self._tails: dict[str, list[str]] = {}
        for key in shapes:
            for tail in _tails(key):
                self._tails.setdefault(tail, []).append(key)
        self._sorted = sorted(shapes)

    def prefixes(self, model: KnownModel, enough: float) -> list[str]:
        """The prefixes below which more than none and at least this share of the model's telling keys lie."""
        counts = Counter(prefix for telling in model.telling for prefix in self._prefixes_of(telling))
        return [prefix for prefix, count in counts.items() if count >= math.ceil(enough * len(model.telling))]

    def _prefixes_of(self, telling: TellingKey) -> set[str]:
        if telling.literal is not None:
            tails = [telling.literal] if telling.literal in self._tails else []
        else:
            tails = [tail for tail in self._tails if telling.matches(tail)]
        return {key.removesuffix(tail) for tail in tails for key in self._tails[tail] if telling.fits(self.shapes[key])}

    def match(self, model: KnownModel, prefix: str) -> Match:
        """How well the tensors below `prefix` are the model's."""
        inner = {key.removeprefix(prefix): key for key in self._below(prefix)}
        named = {model.renamed(key): self.shapes[full] for key, full in inner.items()}
        try:
            fields, asked = self._fields(model, prefix, named)
            expected = self._expected(model, fields)
        except ConfigError as error:
            return Match(model, prefix, failure=str(error))
        keys: dict[str, str] = {}
        wrong: dict[str, str] = {}
        for key, full in inner.items():
            name = key if key in expected else model.renamed(key)
            if name in expected and self.shapes[full] == expected[name]:
                keys.setdefault(name, full)
            elif name in expected:
                wrong[name] = full
        absent = [name for name in expected if name not in keys and name not in wrong]
        return Match(
            model,
            prefix,
            fields,
            asked,
            keys,
            missing=tuple(name for name in absent if not model.has_default(name)),
            misshapen={
                full: f"{full!r} is {list(self.shapes[full])}, expected {list(expected[name])}"
                for name, full in wrong.items()
                if name not in keys
            },
            filled=tuple(name for name in absent if model.has_default(name)),
            score=(len(keys) + sum(map(model.has_default, absent))) / max(len(expected), 1),
        )

    def _below(self, prefix: str) -> Iterator[str]:
        for at in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[at].startswith(prefix):
                return
            yield self._sorted[at]

    def _fields(self, model: KnownModel, prefix: str, named: Shapes) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The constructor's keywords: the published config where it is this network's, else what the catalogue says;
        what the caller gives goes first. And those that none of them tells."""
        if self.published and not prefix and self._describes(model.cls):
            return {**self.published, **self.given}, ()
        if not callable(model.fields):
            return {**model.fields, **self.given}, ()
        fields = {**_told(model, named), **self.given}
        settled = {*self.given, *(name for name, value in fields.items() if value is None)}
        return fields, tuple(name for name in model.asks if name not in settled)

    def _describes(self, cls: type) -> bool:
        """Whether the published config is one of `cls`, or of a network that it derives from. Only a `Network` has one
        that need not say so."""
        if not issubclass(cls, Network):
            return bool(self.class_name == cls.__name__)
        return self.class_name is None or any(self.class_name == c.__name__ for c in cls.__mro__)

    def _expected(self, model: KnownModel, fields: Mapping[str, Any]) -> Shapes:
        key = (model.cls, json.dumps(fields, sort_keys=True, default=repr))
        if key not in self._built:
            state = blank(model.cls, fields).state_dict()
            self._built[key] = {name: tuple(tensor.shape) for name, tensor in state.items()}
        return self._built[key]


def _told(model: KnownModel, named: Shapes) -> Mapping[str, Any]:
    """What the model's function reads off shapes, which may be those of quite another network. Raises `ConfigError`."""
    assert callable(model.fields)
    try:
        return model.fields(named)
    except ConfigError:
        raise
    except KeyError as error:
        raise ConfigError(f"there is no {error}") from None
    except Exception as error:  # a function of somebody's own may raise anything
        raise ConfigError(f"its shapes are not understood: {type(error).__name__}: {error}") from error


def _tails(key: str) -> Iterator[str]:
    """`key`, and what is left of it without its first names."""
    yield key
    for at, letter in enumerate(key):
        if letter == ".":
            yield key[at + 1 :]
