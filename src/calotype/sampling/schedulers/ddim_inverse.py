"""DDIM from a clean sample to the noise that it comes from."""

from typing import Any, Literal

from torch import Tensor

from calotype.errors import MissingInput
from calotype.sampling.inverse import InverseTimesteps
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.schedulers.base import plan
from calotype.sampling.schedulers.fields import Clipped, PredictionType, Spaced, Training
from calotype.sampling.schedulers.training import WholeTimesteps, as_floats
from calotype.sampling.solver import Euler
from calotype.sampling.stateful import answer


class DDIMInverseConfig(Training, Clipped, Spaced):
    """The ecosystem's configuration of the inverted DDIM."""

    set_alpha_to_one: bool = True
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False


class DDIMInverseScheduler(WholeTimesteps):
    """Song et al., "Denoising Diffusion Implicit Models", section 4.3, with the ecosystem's keywords and defaults."""

    Config = DDIMInverseConfig
    config: DDIMInverseConfig
    noise_schedule: InverseTimesteps
    solver: Euler

    def _compose(self) -> None:
        super()._compose()
        shares = as_floats(self.alphas_cumprod)
        self.solver = Euler()
        self.noise_schedule = InverseTimesteps(
            VariancePreserving(
                shares,
                self.config.timestep_spacing,
                self.config.steps_offset,
                final_share=1.0 if self.config.set_alpha_to_one else shares[0],
            )
        )

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """One step up to `timestep`.

        Args:
            model_output: [B, C, ...].
            timestep: where the step leads.
            sample: latents [B, C, ...], one step length below.

        Returns:
            `SchedulerOutput`, or a tuple of its two tensors.
        """
        if self.num_inference_steps is None:
            raise MissingInput("the number of steps is not set; call set_timesteps first")
        t = self._timestep(timestep)
        levels = self.noise_schedule.level(t - len(self) // self.num_inference_steps), self.noise_schedule.level(t)
        moved, clean = self._full_step(
            sample, model_output, plan(self.parameterization, self.solver, *levels), self.solver, None
        )
        return answer(moved.to(model_output.dtype), clean.to(model_output.dtype), return_dict)
