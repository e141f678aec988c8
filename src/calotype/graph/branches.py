"""Guidance branches: what a denoising step predicts once for each, before a policy combines them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class Tag:
    """What asks a predictor for a variant of itself on one branch. Derived ones are frozen dataclasses.

    A predictor's parameter of a derived type receives the branch's tag of that type, and None on other branches.
    """


@dataclass(frozen=True)
class Branch:
    """One prediction that guidance asks for: the set of inputs that it takes the negative of.

    `tag` tells the predictor which variant to be (perturbed attention, a skipped layer); `adapters` names those of
    the loop's adapters that run on this branch, `()` none and None all that run anyway. Branches whose tags or adapters
    differ cannot share one batch.
    """

    name: str
    negated: frozenset[str] = frozenset()
    tag: Tag | None = None
    adapters: tuple[str, ...] | None = None

    @property
    def is_positive(self) -> bool:
        """Whether it is the positive branch, or what a variant of the predictor makes of the same inputs."""
        return not self.negated and (self.name == "positive" or self.tag is not None or self.adapters is not None)


POSITIVE = Branch("positive")


@dataclass(frozen=True)
class NegativeOf:
    """Marks an input as the negative twin of another: `Annotated[str, NegativeOf("prompt")]`."""

    name: str


class Branches(Generic[T]):
    """One value per guidance branch, by the branch's name: `Branches(positive=a, negative=b)`. Immutable."""

    __slots__ = ("_values",)
    _values: Mapping[str, T]

    def __init__(self, **values: T) -> None:
        if "positive" not in values:
            raise TypeError(f"Branches need a value named 'positive', got {sorted(values) or 'none'}")
        object.__setattr__(self, "_values", MappingProxyType(dict(values)))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Branches cannot be changed; make new ones with .map(...)")

    @property
    def positive(self) -> T:
        return self._values["positive"]

    def __getitem__(self, name: str) -> T:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> Iterator[tuple[str, T]]:
        return iter(self._values.items())

    def map(self, fn: Callable[[T], S]) -> "Branches[S]":
        """The same branches with `fn` of each value."""
        return Branches(**{name: fn(value) for name, value in self._values.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return _branches, (dict(self._values),)

    def __repr__(self) -> str:
        return f"Branches({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Branches) and dict(self._values) == dict(other._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))


def _branches(values: dict[str, Any]) -> Branches[Any]:
    """What copying and pickling make `Branches` again with."""
    return Branches(**values)
