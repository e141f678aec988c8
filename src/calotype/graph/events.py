"""What a loop tells of its steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepEvent:
    """One step of a loop, as `pipe.stream` yields it.

    Attributes:
        node: the name of the loop.
        index, total: the step just done, from 0, and how many there are.
        latents: the loop's value after the step, all items in one batch.
        reused: whether a step cache took work over from steps before.
    """

    node: str
    index: int
    total: int
    latents: Any = field(repr=False)
    _denoised: Callable[[], Any] = field(repr=False)
    _preview: Callable[[], Mapping[str, Any]] = field(repr=False)
    reused: bool = False

    @property
    def denoised(self) -> Any:
        """The estimate of the finished latents at this step, all items in one batch."""
        return self._denoised()

    def preview(self) -> Mapping[str, Any]:
        """The pipeline's outputs of the first item, made from the estimate; computed when called. Only units that the
        outputs need run: an impure one that nothing needs (a log) is left out."""
        return self._preview()
