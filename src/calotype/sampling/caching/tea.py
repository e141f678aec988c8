"""A step cache that goes by what enters the first block of a network."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calotype.errors import InputError
from calotype.nn.reuse import BlockPass
from calotype.sampling.caching.policy import StepCache, change, check_threshold
from calotype.sampling.guidance.policy import check_number
from calotype.sampling.step import Step


@dataclass(frozen=True)
class TeaCache(StepCache):
    """Leaves out all blocks while what enters the first of them, modulated by the time, has not moved far.

    Each step's change of that input relative to the step before, in L1 norms, goes through a polynomial that is fitted
    to how a network's output changes with it. What the blocks add is taken over while the sum of these since the last
    step that computed is below `threshold`.

    Source: Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", 2024, eq. 5-7.

    Attributes:
        threshold: 0 or more; 0 takes nothing over.
        coefficients: of the polynomial, the highest power first; by default the change itself.

    Raises:
        InputError: a value is out of range.
    """

    threshold: float = 0.1
    coefficients: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold("TeaCache", self.threshold)
        if not isinstance(self.coefficients, tuple) or not self.coefficients:
            raise InputError(f"TeaCache: coefficients must be a tuple of numbers, got {self.coefficients!r}")
        for number in self.coefficients:
            check_number("TeaCache: each of coefficients", number)

    def sign(self, blocks: BlockPass[Any], hidden: Tensor | None) -> Tensor | None:
        if blocks.cue is None:
            raise InputError(
                f"{blocks.network} has no input of a first block, modulated by the time, that TeaCache could go by; "
                "take FirstBlockCache or TaylorCache"
            )
        return blocks.cue()

    def judge(self, step: Step, sign: Tensor | None, state: Any) -> tuple[bool, Any]:
        assert sign is not None
        before, total = state
        total += self._rescaled(change(sign, before))
        return self.threshold > 0 and total < self.threshold, (sign, total)  # a fitted polynomial may be negative

    def renewed(self, step: Step, sign: Tensor | None, state: Any) -> Any:
        return sign, 0.0

    def _rescaled(self, moved: float) -> float:
        value = 0.0
        for coefficient in self.coefficients:
            value = value * moved + coefficient
        return value
