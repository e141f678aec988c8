"""A step cache that computes at every so many steps, and continues what it kept in between."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calotype.errors import InputError, did_you_mean
from calotype.sampling.caching.policy import Reach, StepCache, check_count
from calotype.sampling.step import Step

_REACHES: tuple[Reach, ...] = ("blocks", "prediction")


@dataclass(frozen=True)
class TaylorCache(StepCache):
    """Computes every `every` steps; in between, a Taylor series continues what was kept, in the number of the step.

    The derivatives are differences of what was computed, each divided by the steps between. `degree=0` takes over what
    was kept as it is: of a U-Net's blocks, that is DeepCache.

    Source: Liu et al., "From Reusable to Forecasting: Accelerating Diffusion Models with TaylorSeers", 2025, eq. 4-6,
    on what all blocks add together; Ma et al., "DeepCache: Accelerating Diffusion Models for Free", 2023.

    Attributes:
        every: from 1, which takes nothing over.
        degree: of the series, from 0.
        warm_up: how many steps at the start compute, beside those that `within` leaves out.
        of: what is continued: what a network's `"blocks"` give, or the whole `"prediction"`, which any network has.

    Raises:
        InputError: a value is out of range.
    """

    every: int = 2
    degree: int = 1
    warm_up: int = 3
    of: Reach = "blocks"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("TaylorCache: every", self.every)
        check_count("TaylorCache: degree", self.degree, least=0)
        check_count("TaylorCache: warm_up", self.warm_up, least=0)
        if self.of not in _REACHES:
            near = did_you_mean(str(self.of), _REACHES)
            raise InputError(f"TaylorCache: of must be one of {', '.join(_REACHES)}, got {self.of!r}{near}")

    @property
    def reach(self) -> Reach:
        return self.of

    @property
    def order(self) -> int:
        return self.degree

    def judge(self, step: Step, sign: Tensor | None, state: Any) -> tuple[bool, Any]:
        taken = state + 1
        return step.index >= self.warm_up and taken < self.every, taken

    def renewed(self, step: Step, sign: Tensor | None, state: Any) -> Any:
        return 0
