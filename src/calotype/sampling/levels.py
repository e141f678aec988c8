"""Noise levels, and the path of levels that a loop goes through."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Level(NamedTuple):
    """A noise level: `x = alpha * clean + sigma * noise`; the network is told `timestep` and is shown `scale * x`."""

    alpha: float
    sigma: float
    timestep: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Path:
    """Evaluation i of the network is at `here[i]` and the latents are at `there[i]` after it.

    Attributes:
        init_sigma: what pure noise is multiplied by before the first.
        notes: for each evaluation, what a solver with a state has to know of its place in the loop; the solver's own.
    """

    here: tuple[Level, ...]
    there: tuple[Level, ...]
    init_sigma: float = 1.0
    notes: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.here) == len(self.there) > 0

    def __len__(self) -> int:
        return len(self.here)


class Levels(Protocol):
    """The levels of a schedule that are not on a path, for solvers that evaluate the network there too."""

    def level(self, timestep: float) -> Level:
        """The level at a timestep."""

    def of_ratio(self, ratio: float) -> Level:
        """The level with this noise over signal, `sigma / alpha`, above 0."""
