"""A step cache that goes by how the size of what a network's blocks add changes, measured beforehand."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.caching.policy import StepCache, check_threshold
from calotype.sampling.guidance.policy import check_number
from calotype.sampling.step import Step


@dataclass(frozen=True)
class MagCache(StepCache):
    """Leaves out all blocks while the size of what they add, known from runs before, has not changed much.

    That size changes from step to step by ratios that hardly depend on the prompt. The product of the ratios since the
    last step that computed says how large what is taken over should have become; its distances from 1, summed up, stay
    below `threshold`.

    Source: Ma et al., "MagCache: Fast Video Generation with Magnitude-Aware Cache", 2025, eq. 3-6.

    Attributes:
        ratios: for each step of a loop, the size of what the blocks add relative to the step before; the first is 1. A
            loop of another length reads them in proportion.
        threshold: 0 or more; 0 takes nothing over.

    Raises:
        InputError: a value is out of range.
    """

    ratios: tuple[float, ...]
    threshold: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold("MagCache", self.threshold)
        if not isinstance(self.ratios, tuple) or not self.ratios:
            raise InputError(f"MagCache: ratios must be a tuple of numbers, one for each step, got {self.ratios!r}")
        for number in self.ratios:
            check_number("MagCache: each of ratios", number)

    def judge(self, step: Step, sign: Tensor | None, state: Any) -> tuple[bool, Any]:
        product, error = state
        product *= self.ratios[self._place(step)]
        error += abs(1.0 - product)
        return error < self.threshold, (product, error)

    def renewed(self, step: Step, sign: Tensor | None, state: Any) -> Any:
        return 1.0, 0.0

    def _place(self, step: Step) -> int:
        """Which ratio is nearest to a step."""
        last = len(self.ratios) - 1
        return last if step.count == 1 else round(step.index * last / (step.count - 1))
