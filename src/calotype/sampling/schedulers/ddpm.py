"""DDPM: ancestral sampling of the posterior."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.config import Numbers, SchedulerConfig
from calotype.sampling.noise import NoiseSource
from calotype.sampling.parameterization import parameterization
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.schedulers.base import plan
from calotype.sampling.schedulers.training import as_floats, limit, training_tables
from calotype.sampling.solver import Ddpm, VarianceType
from calotype.sampling.spacing import Spacing
from calotype.sampling.stateful import ByTimestep, Device, Generators, answer, source, steps_asked, steps_or_custom


class DDPMConfig(SchedulerConfig):
    """The ecosystem's configuration of DDPM."""

    num_train_timesteps: int = Field(1000, ge=1)
    beta_start: float = Field(0.0001, ge=0)
    beta_end: float = Field(0.02, ge=0)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"] = "linear"
    trained_betas: Numbers | None = None
    variance_type: VarianceType = "fixed_small"
    clip_sample: bool = True
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, gt=0, le=1)
    clip_sample_range: float = Field(1.0, gt=0)
    sample_max_value: float = Field(1.0, gt=0)
    timestep_spacing: Spacing = "leading"
    steps_offset: int = Field(0, ge=0)
    rescale_betas_zero_snr: bool = False


class DDPMScheduler(ByTimestep):
    """Ho et al., "Denoising Diffusion Probabilistic Models", with the ecosystem's keywords and defaults."""

    Config = DDPMConfig
    config: DDPMConfig
    family = "diffusion"
    noise_schedule: VariancePreserving
    solver: Ddpm

    def _compose(self) -> None:
        self.betas, self.alphas, self.alphas_cumprod = training_tables(self.config)
        self.parameterization = parameterization(self.config.prediction_type)
        self.solver = Ddpm(self.config.variance_type)
        self.limit = limit(self.config)
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
