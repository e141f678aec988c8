"""What a step cache is: a value that says at which steps a network's work is taken over from steps before."""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.guidance.policy import WHOLE, Interval, check_interval, check_number
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.nn.reuse import BlockPass
    from calotype.sampling.caching.session import Caching

Reach: TypeAlias = Literal["blocks", "prediction"]
"""What is taken over: what a network's blocks give, or the whole prediction."""


@dataclass(frozen=True)
class StepCache(ABC):
    """At which steps of a loop work is taken over from steps before, and from which signs.

    A value without memory: what it goes by from step to step goes in and comes out. The loop decides once for each
    step, on the first branch, so that all branches of a step are computed or taken over alike.

    Attributes:
        within: the part of the loop, as `Step.progress`, where work may be taken over.
        most: the most steps in a row that take over.

    Raises:
        InputError: a value is out of range.
    """

    _: KW_ONLY
    within: Interval = WHOLE
    most: int | None = None

    skips_first: ClassVar[bool] = True
    """Whether it needs nothing of the pass itself, so that residual blocks are left out with the first of them."""

    def __post_init__(self) -> None:
        check_interval(self.within, f"{type(self).__name__}: within", "lets any step take over")
        if self.most is not None:
            check_count(f"{type(self).__name__}: most", self.most)

    @property
    def reach(self) -> Reach:
        """What is taken over."""
        return "blocks"

    @property
    def order(self) -> int:
        """The degree of the Taylor series that continues what is kept."""
        return 0

    def sign(self, blocks: "BlockPass[Any]", hidden: Tensor | None) -> Tensor | None:
        """What to go by at this step: a tensor of the pass, or None. `hidden`: what the first part left, if it ran.
        `judge` and `renewed` receive the rows of the first branch, [items, n]."""
        return None

    def start(self, items: int, predictor: str) -> "Caching":
        """The memory of a loop with so many items, whose unit `predictor` predicts."""
        from calotype.sampling.caching.session import Caching

        return Caching(self, items, predictor)

    @abstractmethod
    def judge(self, step: Step, sign: Tensor | None, state: Any) -> tuple[bool, Any]:
        """Whether this step takes over, and the state if it does. It is asked only where there is something kept."""

    @abstractmethod
    def renewed(self, step: Step, sign: Tensor | None, state: Any) -> Any:
        """The state after a step that computes; `state` is None before the first."""


def change(now: Tensor, before: Tensor) -> float:
    """How far a tensor [b, ...] has moved, relative to its size: L1 norms, of the item that moved the furthest."""
    moved = (now - before).abs().flatten(1).mean(1, dtype=torch.float32)
    return float((moved / before.abs().flatten(1).mean(1, dtype=torch.float32)).max())


def check_threshold(who: str, value: Any) -> None:
    """Raise `InputError` unless a value is a finite number from 0."""
    check_number(f"{who}: threshold", value, "0 takes nothing over")
    if value < 0:
        raise InputError(f"{who}: threshold must be 0 or more, got {value!r}; 0 takes nothing over")


def check_count(what: str, value: Any, least: int = 1) -> None:
    """Raise `InputError` unless a value is a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{what} must be a whole number from {least}, got {value!r}")
