"""Where a denoising loop is: the value that predictors, guidance and progress displays receive."""

from dataclasses import dataclass


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
