"""What a caller wants of a noise schedule."""

import math
from dataclasses import dataclass
from typing import Any

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.sampling.spacing import counted


@dataclass(frozen=True)
class Request:
    """What a caller wants of a schedule, validated.

    Attributes:
        steps: how many steps; None where `sigmas` or `timesteps` say it.
        start: share of the noise to start from, in (0, 1]: image-to-image strength. The first level depends on it
            alone, never on `steps`.
        start_sigma: first noise level itself, in the units of the schedule.
        sigmas: noise levels, each schedule's own custom values.
        timesteps: timesteps, descending.
        mu: logarithm ("exponential") or value ("linear") of a dynamic shift.
        image_tokens: tokens of the picture, from which a dynamic shift follows; other schedules do not depend on it.
    """

    steps: int | None = None
    start: float = 1.0
    start_sigma: float | None = None
    sigmas: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None
    mu: float | None = None
    image_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            object.__setattr__(self, "steps", counted(self.steps))
        for name in ("sigmas", "timesteps"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _listed(name, getattr(self, name)))
        if not 0.0 < self.start <= 1.0:
            raise InputError(f"start must be above 0 and at most 1, got {self.start!r}; 1 starts from pure noise")
        custom = self.sigmas is not None or self.timesteps is not None
        if self.steps is None and not custom:
            raise MissingInput("steps is missing; give steps, timesteps or sigmas")
        if custom + (self.start_sigma is not None) + (self.start < 1.0) > 1:
            raise InputError("start, start_sigma and custom timesteps or sigmas all say where to start; give one")

    @property
    def partial(self) -> bool:
        """Whether the schedule starts from less than its most noise."""
        return self.start < 1.0 or self.start_sigma is not None


def first_timestep(start: float, count: int) -> float | None:
    """The training timestep of a start in (0, 1]; None is the top of whatever the spacing is."""
    return None if start == 1.0 else float(max(round(start * count), 1) - 1)


def between(name: str, value: float, low: float, high: float) -> None:
    if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
        raise InputError(f"{name} must be between {low:g} and {high:g} in this schedule, got {value!r}")


def refuse(request: Request, *names: str) -> None:
    for name in names:
        if getattr(request, name) is not None:
            raise UnusedInput(f"{name} was given, but this schedule does not use it; leave it out")


def _listed(name: str, values: Any) -> tuple[float, ...]:
    listed = tuple(float(value) for value in values)
    if not listed or not all(math.isfinite(value) for value in listed):
        raise InputError(f"{name} must be a list of finite numbers, got {list(listed)}")
    return listed
