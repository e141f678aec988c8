"""What a `MagCache` goes by, measured: how the size of what a network's blocks add changes over the steps of a loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.memory.imagined import has_data
from calotype.sampling.caching.policy import StepCache
from calotype.sampling.caching.session import Caching
from calotype.sampling.step import Step

_DIGITS = 5
"""Of each ratio, so that a policy stays readable."""


@dataclass(frozen=True)
class Measuring(StepCache):
    """Takes nothing over, and notes the ratios of every loop of a call in `loops`, which is made for that one call.

    Attributes:
        loops: for each loop the ratios of its steps, which a `MagCache` takes.
    """

    loops: list[list[float]] = field(default_factory=list, compare=False)

    def start(self, items: int, predictor: str) -> Caching:
        return _Noting(self, items, predictor, self.loops)

    def judge(self, step: Step, sign: Tensor | None, state: Any) -> tuple[bool, Any]:
        return False, None

    def renewed(self, step: Step, sign: Tensor | None, state: Any) -> Any:
        return None


class _Noting(Caching):
    """The memory of one loop: the sizes of the step before, on the branch that a step cache would go by."""

    def __init__(self, policy: StepCache, items: int, predictor: str, loops: list[list[float]]) -> None:
        super().__init__(policy, items, predictor)
        self._loops, self._ratios = loops, list[float]()
        self._before: Tensor | None = None

    def keep(self, names: tuple[str, ...], values: tuple[Tensor, ...]) -> None:
        """Note what was computed; nothing is kept."""
        first = self._names[0]
        if first not in names or not has_data(values[0]):
            return
        now = sizes(values[0].chunk(len(names))[names.index(first)])
        if self._before is None:
            self._loops.append(self._ratios)  # a loop that was only imagined has no ratios
        self._ratios.append(1.0 if self._before is None else float((now / self._before).mean()))
        self._before = now


def sizes(added: Tensor) -> Float[Tensor, "..."]:
    """The L2 norm of every token [..., c], or of every place of a map [b, c, h, w]."""
    length: Tensor = torch.linalg.vector_norm(added.float(), dim=1 if added.ndim == 4 else -1)
    return length


def measured_ratios(pipe: Callable[..., Any], calls: tuple[Mapping[str, Any], ...]) -> tuple[float, ...]:
    """The ratios of the steps of one loop, the mean over calls of a pipeline with these inputs.

    Raises:
        InputError: there is no call, one brings a step cache of its own, has not one loop or less than two steps, or
            they differ in their number of steps.
    """
    if not calls:
        raise InputError(
            'MagCache.measured needs the inputs of a call at least: MagCache.measured(pipe, {"prompt": ...})'
        )
    found = [_ratios(pipe, inputs) for inputs in calls]
    counts = sorted({len(ratios) for ratios in found})
    if len(counts) > 1:
        raise InputError(f"the calls that ratios are measured in must have as many steps, got {counts}")
    return tuple(round(fmean(of_step), _DIGITS) for of_step in zip(*found, strict=True))


def _ratios(pipe: Callable[..., Any], inputs: Mapping[str, Any]) -> list[float]:
    if inputs.get("cache") is not None:
        raise InputError("ratios are measured in a call whose every step computes; leave cache out")
    noted = Measuring()
    pipe(**inputs, cache=noted)
    if len(noted.loops) != 1:
        raise InputError(f"ratios are measured in a call with one loop, got {len(noted.loops)}")
    if len(noted.loops[0]) < 2:
        raise InputError("ratios are measured from step to step; the call needs 2 steps or more")
    return noted.loops[0]
