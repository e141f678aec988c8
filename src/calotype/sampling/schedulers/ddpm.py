"""DDPM: ancestral sampling of the posterior."""

from typing import Any, Literal

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.noise import NoiseSource
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.schedulers.base import plan
from calotype.sampling.schedulers.fields import Clipped, PredictionType, Spaced, Thresholded, Training
from calotype.sampling.schedulers.training import WholeTimesteps, as_floats
from calotype.sampling.solver import Ddpm, VarianceType
from calotype.sampling.spacing import Spacing
from calotype.sampling.stateful import Device, Generators, answer, source, steps_asked, steps_or_custom

FOREIGN = {"variance_type": frozenset({None})}
"""What other schedulers have for these fields."""


class DDPMConfig(Training, Clipped, Thresholded, Spaced):
    """The ecosystem's configuration of DDPM."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"] = "linear"  # type: ignore[assignment]
    variance_type: VarianceType = "fixed_small"
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False


class DDPMScheduler(WholeTimesteps):
    """Ho et al., "Denoising Diffusion Probabilistic Models", with the ecosystem's keywords and defaults."""

    Config = DDPMConfig
    config: DDPMConfig
    noise_schedule: VariancePreserving
    solver: Ddpm
    foreign = FOREIGN

    def _compose(self) -> None:
        super()._compose()
        self.solver = Ddpm(self.config.variance_type)
        self.noise_schedule = VariancePreserving(
            as_floats(self.alphas_cumprod), self.config.timestep_spacing, self.config.steps_offset
        )

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Device = None, timesteps: Any = None
    ) -> None:
        """Sets the steps of the next loop, by number or by descending timesteps. Raises `InputError`."""
        steps_or_custom(num_inference_steps, timesteps=timesteps)
        self._set(self.schedule(steps_asked(num_inference_steps), timesteps=timesteps), device)

    def previous_timestep(self, timestep: Any) -> int:
        """The timestep after this one in the loop, or -1 after the last; without `set_timesteps`, one less."""
        here = self._timestep(timestep)
        if self.num_inference_steps is None:
            return here - 1
        times = [int(t) for t in self._current().timesteps]
        if here not in times:
            raise InputError(f"timestep {here} is not one of the {len(times)} that were set; see scheduler.timesteps")
        return [*times[1:], -1][times.index(here)]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`; works before `set_timesteps`, over the training timesteps.

        Args:
            model_output: [B, C, ...], or [B, 2C, ...] with a learned variance.
            timestep: where `sample` is.
            sample: latents [B, C, ...].
            generator: of the fresh noise; a list has one per item; None is torch's own.

        Returns:
            `SchedulerOutput`, or a tuple of its two tensors.
        """
        draw: NoiseSource = source(generator, model_output.dtype)
        here, there = self._timestep(timestep), self.previous_timestep(timestep)
        levels = self.noise_schedule.level(here), self.noise_schedule.level(there)
        weights = plan(self.parameterization, self.solver, *levels)
        moved, clean = self._full_step(sample, model_output, weights, self.solver, draw)
        dtype = torch.result_type(sample, model_output)
        return answer(moved.to(dtype), clean.to(dtype), return_dict)
