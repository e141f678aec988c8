"""Steps of two network evaluations: the levels that they are made at."""

from collections.abc import Callable
from typing import Literal

from calotype.sampling.levels import Level, Path

Stage = Literal["first", "second"]
"""Which evaluation of its step one is. The note of solvers with two."""


def two_stages(path: Path, second: Callable[[Level, Level], Level]) -> Path:
    """Each step's evaluation at its start, and another at `second(here, there)`, which leads where the step leads.

    The last step has one: it ends without noise, where there is nothing to evaluate at, or at the end of the schedule.
    """
    here: list[Level] = []
    there: list[Level] = []
    notes: list[Stage] = []
    for number, (start, end) in enumerate(zip(path.here, path.there, strict=True)):
        single = number + 1 == len(path) or end.sigma == 0.0
        middle = end if single else second(start, end)
        here += [start] if single else [start, middle]
        there += [end] if single else [middle, end]
        notes += ["first"] if single else ["first", "second"]
    return Path(tuple(here), tuple(there), path.init_sigma, tuple(notes))


def half_way(here: Level, there: Level) -> float:
    """The noise over signal half way between two levels, in its logarithm."""
    return float((here.sigma / here.alpha * there.sigma / there.alpha) ** 0.5)
