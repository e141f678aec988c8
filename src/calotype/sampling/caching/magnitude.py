"""A step cache that goes by how the size of what a network's blocks add changes, measured beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

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
            loop of another length reads them in proportion. `measured` finds them.
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

    @classmethod
    def measured(cls, pipe: Callable[..., Any], *calls: Mapping[str, Any], **fields: Any) -> Self:
        """The policy with the ratios of a pipeline, measured in calls in which every step computes.

        A ratio is the mean over tokens, of a U-Net over the places of its maps, and over the calls (eq. 3). One prompt
        is enough for a network, a number of steps, and a guidance.

        Args:
            pipe: a pipeline that takes a step cache.
            calls: the inputs of each call: `{"prompt": "a red apple"}`.
            fields: of the policy: `threshold`, `within`, `most`.

        Raises:
            InputError: there is no call, one brings a step cache of its own, has not one loop or less than two steps,
                they differ in their number of steps, or a field is unknown or out of range.
        """
        from calotype.sampling.caching.measured import measured_ratios
        from calotype.sampling.guidance.recorded import check_fields

        check_fields("cache", cls, fields, apart=("ratios",))
        cls((1.0,), **fields)  # a mistake in a field is told before anything is drawn
        return cls(measured_ratios(pipe, calls), **fields)

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
