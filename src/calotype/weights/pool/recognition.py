"""Which known models a set of tensors holds, from their names and shapes alone."""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calotype.errors import ConfigError
from calotype.nn.network import Network
from calotype.weights.pool.blank import blank, shared_parameters
from calotype.weights.pool.known import KnownModel
from calotype.weights.pool.layout import Cut, Layout, Shapes, TellingKey, Whole

RECOGNISED = 0.75
"""The share of a network's tensors that a file must have, by name and shape, to be recognised as one of it."""

_REMARKS = frozenset({"architectures", "model_type", "transformers_version", "torch_dtype", "dtype"})
"""What transformers writes into a `config.json` beside the network's fields."""


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
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    """How each of these tensors is cut from that of the file."""
    missing: tuple[str, ...] = ()
    """Names of the network's tensors that the file lacks, without those that have a default."""
    misshapen: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with each of the file's tensors that has another shape, by key."""
    filled: tuple[str, ...] = ()
    """Names of tensors that the file lacks and a default fills."""
    extra: tuple[str, ...] = ()
    """Keys of the file below the prefix that no recognised model takes."""
    left_out: tuple[str, ...] = ()
    """Keys that such files have and the network does not take, by intent."""
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
    metadata: Mapping[str, str] | None = None,
) -> Recognition:
    """The known models whose tensors these are.

    Args:
        shapes: the shape of every tensor by its key.
        published: the `config.json` beside the files; it is taken for the class that it names, or for any if it names
            none.
        given: keywords that the caller gives; under the name of a model, a whole `config.json` for it.
        metadata: what the header of the file says beside.
    """
    compare = _Comparison(Whole(shapes, metadata or {}), published or {}, given or {})
    models = list(models)
    found = compare.all(models, enough=0.5)
    found.sort(key=lambda match: (-len(match.keys), len(match.missing) + len(match.misshapen)))
    accepted = _choose([match for match in found if match.score >= RECOGNISED])
    if accepted:
        return _with_extras(accepted, shapes)
    near = found or compare.all(models, enough=0)
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
    known = key in match.misshapen or key in match.left_out
    return known or match.model.ignored(key.removeprefix(match.prefix))


class _Comparison:
    """Compares one set of tensors with models, and builds each network once."""

    def __init__(self, whole: Whole, published: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.whole, self.shapes, self.given = whole, whole.shapes, given
        self.class_name = _class_name(published)
        self.published = _fields_of(published)
        self._built: dict[tuple[type, str], tuple[Shapes, list[list[str]]]] = {}
        self._tails: dict[str, list[str]] = {}
        for key in self.shapes:
            for tail in _tails(key):
                self._tails.setdefault(tail, []).append(key)
        self._sorted = sorted(self.shapes)

    def all(self, models: Iterable[KnownModel], enough: float) -> list[Match]:
        """How well each model fits in each of its spellings, below every prefix where it may be."""
        return [
            self.match(model, layout, prefix)
            for model in models
            for layout in model.layouts
            for prefix in self.prefixes(layout, enough)
        ]

    def prefixes(self, layout: Layout, enough: float) -> list[str]:
        """The prefixes below which more than none and at least this share of the telling keys lie."""
        counts = Counter(prefix for telling in layout.telling for prefix in self._prefixes_of(telling))
        least = math.ceil(enough * len(layout.telling))
        return [p for p, count in counts.items() if count >= least and layout.admits(p, self.shapes)]

    def _prefixes_of(self, telling: TellingKey) -> set[str]:
        if telling.literal is not None:
            tails = [telling.literal] if telling.literal in self._tails else []
        else:
            tails = [tail for tail in self._tails if telling.matches(tail)]
        return {key.removesuffix(tail) for tail in tails for key in self._tails[tail] if telling.fits(self.shapes[key])}

    def match(self, model: KnownModel, layout: Layout, prefix: str) -> Match:
        """How well the tensors below `prefix` are the model's in one spelling."""
        inner = {key.removeprefix(prefix): self.shapes[key] for key in self._below(prefix)}
        cuts = layout.cuts(inner)
        named = {model.renamed(name): cut.shape(inner[cut.key]) for name, cut in cuts.items()}
        try:
            fields, asked = self._fields(model, layout, prefix, named)
            expected, shared = self._expected(model, fields)
        except ConfigError as error:
            return Match(model, prefix, failure=str(error))
        fitting: dict[str, Cut] = {}
        wrong: dict[str, Cut] = {}
        for called, cut in cuts.items():
            name = called if called in expected else model.renamed(called)
            if name in expected and cut.shape(inner[cut.key]) == expected[name]:
                fitting.setdefault(name, cut)
            elif name in expected:
                wrong[name] = cut
        for names in shared:  # a file may have such a tensor once
            there = next((fitting[name] for name in names if name in fitting), None)
            if there is not None:
                fitting |= {name: there for name in names if name not in fitting and name not in wrong}
        absent = [name for name in expected if name not in fitting and name not in wrong]
        return Match(
            model,
            prefix,
            fields,
            asked,
            keys={name: prefix + cut.key for name, cut in fitting.items()},
            cuts=fitting,
            missing=tuple(name for name in absent if not model.has_default(name)),
            misshapen={
                prefix + cut.key: f"{prefix + cut.key!r} is {list(inner[cut.key])}, "
                f"expected {list(cut.uncut(expected[name]))}"
                for name, cut in wrong.items()
                if name not in fitting
            },
            filled=tuple(name for name in absent if model.has_default(name)),
            left_out=tuple(prefix + key for key in sorted(layout.left_out(inner))),
            score=(len(fitting) + sum(map(model.has_default, absent))) / max(len(expected), 1),
        )

    def _below(self, prefix: str) -> Iterator[str]:
        for at in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[at].startswith(prefix):
                return
            yield self._sorted[at]

    def _fields(
        self, model: KnownModel, layout: Layout, prefix: str, named: Shapes
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The constructor's keywords: the config that the caller gives for this model, or the published one where it is
        this network's, else what the catalogue says; what else the caller gives goes first. And those that none of them
        tells."""
        if isinstance(own := self.given.get(model.model_name), Mapping):
            return _fields_of(own), ()
        given = {name: value for name, value in self.given.items() if not isinstance(value, Mapping)}
        if self.published and not prefix and self._describes(model.cls):
            return {**self.published, **given}, ()
        if not callable(model.fields):
            return {**model.fields, **given}, ()
        facts = _told(model, lambda shapes: layout.told(shapes, self.whole), named)
        fields = {**_told(model, model.fields, named), **facts, **given}
        settled = {*given, *facts, *(name for name, value in fields.items() if value is None)}
        return fields, tuple(name for name in model.asks if name not in settled)

    def _describes(self, cls: type) -> bool:
        """Whether the published config is one of `cls`, or of a network that it derives from. Only a `Network` has one
        that need not say so."""
        if not issubclass(cls, Network):
            return bool(self.class_name == cls.__name__)
        return self.class_name is None or any(self.class_name == c.__name__ for c in cls.__mro__)

    def _expected(self, model: KnownModel, fields: Mapping[str, Any]) -> tuple[Shapes, list[list[str]]]:
        """The shape of every tensor of the network, and the names of those that are one."""
        key = (model.cls, json.dumps(fields, sort_keys=True, default=repr))
        if key not in self._built:
            network = blank(model.cls, fields)
            shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
            self._built[key] = shapes, shared_parameters(network)
        return self._built[key]


def _class_name(published: Mapping[str, Any]) -> str | None:
    """The class that a `config.json` describes, in either library's way of saying it."""
    name: str | None = published.get("_class_name") or next(iter(published.get("architectures") or ()), None)
    return name


def _fields_of(published: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` without what is no keyword of a constructor."""
    remarks = _REMARKS if "model_type" in published else ()
    return {name: value for name, value in published.items() if not name.startswith("_") and name not in remarks}


def _told(model: KnownModel, tell: Callable[[Shapes], Mapping[str, Any]], named: Shapes) -> Mapping[str, Any]:
    """What a function reads off shapes, which may be those of quite another network. Raises `ConfigError`."""
    try:
        return dict(tell(named))
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
