"""Where a denoising loop is: the value that predictors, guidance and progress displays receive."""

from dataclasses import dataclass

from torch import Tensor

from calotype.errors import CalotypeError


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a denoising loop.

    Attributes:
        index: which step this is, from 0.
        count: how many steps the loop has.
        sigma: noise level that the latents have now, in the units of the schedule.
        timestep: what the network is told; 0 to `num_train_timesteps`.
        sigma_next: noise level that the latents will have after the step.
    """

    index: int
    count: int
    sigma: float
    timestep: float
    sigma_next: float

    @property
    def progress(self) -> float:
        """The share of the loop that is done before this step, in [0, 1)."""
        return self.index / self.count

    @property
    def each_sigma(self) -> float | Tensor:
        """The noise level, as one number for all items or, where they differ, one for each: float32 [b]."""
        return self.sigma

    @property
    def each_timestep(self) -> float | Tensor:
        """The timestep, as one number for all items or, where they differ, one for each: float32 [b]."""
        return self.timestep


class MixedLevels(CalotypeError):
    """A predictor asked for the one noise level of a batch whose items have one each."""


class MixedStep(Step):
    """A step of a batch whose items are at noise levels of their own, as in training.

    It has `each_sigma` and `each_timestep`, float32 [b]. What is one number for the whole batch raises `MixedLevels`;
    who made the step then predicts the items one by one.
    """

    __slots__ = ("_sigmas", "_timesteps")

    def __init__(self, sigmas: Tensor, timesteps: Tensor) -> None:
        object.__setattr__(self, "_sigmas", sigmas)
        object.__setattr__(self, "_timesteps", timesteps)

    @property
    def each_sigma(self) -> Tensor:
        sigmas: Tensor = object.__getattribute__(self, "_sigmas")
        return sigmas

    @property
    def each_timestep(self) -> Tensor:
        timesteps: Tensor = object.__getattribute__(self, "_timesteps")
        return timesteps

    def __getattribute__(self, name: str) -> object:
        if name in ("index", "count", "sigma", "timestep", "sigma_next", "progress"):
            raise MixedLevels(f"the items of this batch have no {name} in common; read each_sigma or each_timestep")
        return object.__getattribute__(self, name)
