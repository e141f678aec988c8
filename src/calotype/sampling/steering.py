"""What steers a predictor from within the loop: the values that further networks make at each step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Self

from calotype.errors import InputError
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.nn.attention_control import AttentionControl
    from calotype.nn.reuse import BlockCache
    from calotype.nn.streams import Residual


class Steering(ABC):
    """What a predictor is given beside its inputs at one step. A family of networks derives its own, a frozen value.

    Units in `Denoise(..., steer=[...])` make them, and the predictor's parameter of such a type receives the sum of
    those of its type, or `None` where no unit made one.
    """

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """Both at once."""


@dataclass(frozen=True)
class AttentionSteering(Steering):
    """What looks into the attention of any network at one step; of two steerings, one after the other."""

    controls: "tuple[AttentionControl, ...]"

    def __add__(self, other: Self) -> Self:
        return type(self)((*self.controls, *other.controls))


@dataclass(frozen=True)
class Residuals(Steering):
    """What is added to the image of a transformer after its blocks at one step; of two, both are added."""

    residuals: "tuple[Residual, ...]"

    def __add__(self, other: Self) -> Self:
        return type(self)((*self.residuals, *other.residuals))


@dataclass(frozen=True)
class BlockReuse(Steering):
    """What any network takes over from steps before: the loop gives it where a step cache is at work."""

    cache: "BlockCache"

    def __add__(self, other: Self) -> Self:
        raise InputError("a loop has one step cache; give one")


def taken_over(reuse: BlockReuse | None) -> "BlockCache | None":
    """The cache of a steering, for the network's `cache=`."""
    return None if reuse is None else reuse.cache


def looked_into(attention: AttentionSteering | None) -> "tuple[AttentionControl, ...]":
    """The controls of a steering, for the network's `attention=`; none where nothing steers."""
    return () if attention is None else attention.controls


def within(step: Step, window: tuple[float, float]) -> bool:
    """Whether a whole step lies within a part of the loop. Raises `InputError` for a part that ends as it begins."""
    first, last = window
    if first >= last:
        raise InputError(f"a window must begin before it ends, got {first} to {last}")
    if (first, last) == (0.0, 1.0):
        return True  # of every step: training has batches without a place in the loop
    return first <= step.progress and (step.index + 1) / step.count <= last


def summed(parameters: Mapping[str, type[Steering]], made: Sequence[Steering | None]) -> dict[str, Steering | None]:
    """What each parameter of a predictor receives of what units made: the sum of those of its type, or None."""
    return {name: _sum([value for value in made if isinstance(value, kind)]) for name, kind in parameters.items()}


def _sum(values: Sequence[Steering]) -> Steering | None:
    return reduce(add, values) if values else None
