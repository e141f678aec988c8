"""What conditions and controls give a transformer over text and image tokens (`calotype.nn.streams`), in a loop."""

from dataclasses import dataclass
from typing import Self

from calotype.nn.streams import Condition, Residual
from calotype.sampling.steering import Steering


@dataclass(frozen=True)
class Conditions(Steering):
    """What there is beside the prompt: made once for a loop. Of two, one after the other.

    With `interpolated`, pictures of another size than the drawn one cover the same ground.
    """

    conditions: tuple[Condition, ...]
    interpolated: bool = False

    def __add__(self, other: Self) -> Self:
        return type(self)((*self.conditions, *other.conditions), self.interpolated or other.interpolated)


@dataclass(frozen=True)
class Residuals(Steering):
    """What is added to the image after blocks at one step; of two, both are added."""

    residuals: tuple[Residual, ...]

    def __add__(self, other: Self) -> Self:
        return type(self)((*self.residuals, *other.residuals))
