"""What a guidance policy is, and no guidance."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.sampling.packing import Packing

Interval = tuple[float, float]
"""A part of the loop, as `Step.progress`: first included, last excluded."""

WHOLE: Interval = (0.0, 1.0)

NEGATIVE = "negative"
"""The branch that takes the negative of every input that has one."""


@runtime_checkable
class Guidance(Protocol):
    """Names the branches of a prediction and combines them into one.

    A policy is a frozen value: it holds no state of a call, so one may serve many at once.
    """

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        """Every branch that this policy may need, the positive one first. `twins`: inputs that have a negative twin."""

    def active(self, step: Step) -> tuple[str, ...]:
        """The names of the branches that `step` needs, the positive one first."""

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        """The guided prediction [B, ...] from the predictions [B, ...] of the active branches, by branch name.

        The loop gives `Predictions`, which also tell the clean samples that the predictions imply.
        """


class StatefulGuidance(ABC):
    """A policy that remembers from step to step: what it remembers goes in and comes out, and lies nowhere else."""

    @abstractmethod
    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]: ...

    @abstractmethod
    def active(self, step: Step) -> tuple[str, ...]: ...

    @abstractmethod
    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        """The guided prediction, and the state for the next step; the state is None before the first."""

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        """The guided prediction of a first step."""
        return self.advance(predictions, step, None)[0]


def advance(policy: Guidance, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
    """The guided prediction of any policy, and its state for the next step."""
    if isinstance(policy, StatefulGuidance):
        return policy.advance(predictions, step, state)
    return policy.combine(predictions, step), None


def takes_packed(policy: Guidance, packing: "Packing") -> bool:
    """Whether a policy combines packed predictions as it does others, which it says by a method of this name; one that
    has none, or whose class derives from one that has and combines in its own way, is shown [B, C, ...]."""
    for known in map(vars, type(policy).__mro__):
        if "takes_packed" in known:
            return bool(policy.takes_packed(packing))  # type: ignore[attr-defined]
        if "combine" in known or "advance" in known:
            return False
    return False


@dataclass(frozen=True)
class NoGuidance:
    """The positive branch as it is."""

    def takes_packed(self, packing: "Packing") -> bool:
        return True

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,)

    def active(self, step: Step) -> tuple[str, ...]:
        return (POSITIVE.name,)

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        return predictions[POSITIVE.name]


def check_number(what: str, value: Any, hint: str = "") -> None:
    """Raise `InputError` unless a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, got {value!r}{f'; {hint}' if hint else ''}")


def check_share(what: str, value: Any) -> None:
    """Raise `InputError` unless a value is a number between 0 and 1."""
    check_number(what, value)
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{what} must be between 0 and 1, got {value!r}")


def check_interval(value: Any, what: str = "guidance interval", whole: str = "guides every step") -> None:
    """Raise `InputError` unless a value, called `what`, is an interval of the loop. `whole`: what all of it does."""
    pair = isinstance(value, tuple) and len(value) == 2
    if not pair or not all(isinstance(v, int | float) for v in value) or not 0.0 <= value[0] < value[1] <= 1.0:
        raise InputError(f"{what} must be two increasing numbers between 0 and 1, got {value!r}; (0.0, 1.0) {whole}")


def check_policy(owner: str, value: Any) -> None:
    """Raise `InputError` unless a value is a policy."""
    if isinstance(value, type) or not isinstance(value, Guidance):
        raise InputError(f"{owner}: policy must be a guidance policy, such as ClassifierFree(7.5), got {value!r}")


def inside(step: Step, interval: Interval) -> bool:
    """Whether a step is in a part of the loop."""
    return interval[0] <= step.progress < interval[1]
