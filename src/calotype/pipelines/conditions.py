"""What conditions and controls give a transformer over text and image tokens (`calotype.nn.streams`), in a loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from calotype.nn.beside import Pair
from calotype.nn.streams import Condition
from calotype.sampling.steering import Residuals, Steering

__all__ = ["CallAdapters", "Conditions", "Residuals", "changes_of"]


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
class CallAdapters(Steering):
    """Low-rank changes of the network's layers, by name and each at its weight, that run in this call alone; of two,
    both run. A unit in `once` gives them to what is made once for the loop, one in `steer` to each step."""

    changes: tuple[tuple[Mapping[str, Pair], float], ...]

    def __add__(self, other: Self) -> Self:
        return type(self)((*self.changes, *other.changes))


def changes_of(adapters: CallAdapters | None) -> tuple[tuple[Mapping[str, Pair], float], ...]:
    """The changes, for `running_beside`; none where no unit made any."""
    return () if adapters is None else adapters.changes
