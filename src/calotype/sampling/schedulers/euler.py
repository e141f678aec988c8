"""Euler's method for diffusion models, deterministic or ancestral, with sigma as noise over signal."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from calotype.described import Field
from calotype.sampling.levels import Level, Path
from calotype.sampling.moves import Mix
from calotype.sampling.parameterization import VPrediction
from calotype.sampling.schedule import VarianceExploding
from calotype.sampling.schedulers.base import NoiseLevels, plan, split_variance
from calotype.sampling.schedulers.fields import PredictionType, Ramped, Spaced, Training, one_ramp
from calotype.sampling.schedulers.training import NoiseOverSignal
from calotype.sampling.solver import Euler, EulerAncestral
from calotype.sampling.stateful import Device, Generators, source, steps_asked, steps_or_custom


class EulerConfig(Training, Ramped, Spaced):
    """The ecosystem's configuration of Euler's method."""

    prediction_type: Literal["epsilon", "sample", "original_sample", "v_prediction"] = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


class EulerAncestralConfig(Training, Spaced):
    """The ecosystem's configuration of Euler's ancestral method."""

    prediction_type: PredictionType = "epsilon"
    rescale_betas_zero_snr: bool = False


class _Textbook(NoiseOverSignal):
    """What both methods share."""

    def _follow(self, x: Tensor, clean: Tensor, sigma: float, lower: float) -> Tensor:
        """Euler's step in its textbook form, `x + (x - clean) / sigma * (lower - sigma)`, rounding as it does.

        `advance` is the same step in one sum, and more exact; in single precision they differ by what the subtraction
        of latents of size sigma leaves of a clean sample of size 1.
        """
        return x + (x - clean) / sigma * (lower - sigma)

    def _read(self, sample: Tensor, output: Tensor, clean: Mix) -> tuple[Tensor, Tensor]:
        """The latents and the clean sample, both at least float32."""
        split_variance(output, sample, self.solver)
        wide = sample.to(torch.promote_types(sample.dtype, torch.float32))
        return wide, clean.of(wide, output.to(wide.dtype))

    def _show(self, path: Path | NoiseLevels, device: Device) -> None:
        super()._show(path, device)
        self._rounded = self.sigmas.tolist()


class EulerDiscreteScheduler(_Textbook):
    """Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 2 without its
    second order, with the ecosystem's keywords and defaults."""

    Config = EulerConfig
    config: EulerConfig
    solver: Euler

    def _compose(self) -> None:
        super()._compose()
        self.solver = Euler()

    def _noise_schedule(self, table: tuple[float, ...]) -> VarianceExploding:
        config = self.config
        return VarianceExploding(
            table,
            config.timestep_spacing,
            config.steps_offset,
            log_linear=config.interpolation_type == "log_linear",
            ramp=one_ramp(config),
            smallest=config.sigma_min,
            largest=config.sigma_max,
            log_timesteps=config.timestep_type == "continuous" and config.prediction_type == "v_prediction",
            final_sigma=table[0] if config.final_sigmas_type == "sigma_min" else 0.0,
        )

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Device = None,
        timesteps: Any = None,
        sigmas: Any = None,
    ) -> None:
        """Sets the steps of the next loop: their number, descending timesteps, or sigmas with the final one.

        Raises:
            InputError: not exactly one is given, or a value is out of range.
        """
        steps_or_custom(num_inference_steps, timesteps=timesteps, sigmas=sigmas)
        levels = self.schedule(steps_asked(num_inference_steps), timesteps=timesteps, sigmas=sigmas)
        self._set(levels, device)
        if self.noise_schedule.log_linear and self.noise_schedule.ramp is None and sigmas is None:
            unused = torch.tensor([self.noise_schedule.final_sigma])  # the ecosystem shows it, and never steps to it
            self.sigmas = torch.cat([self.sigmas, unused])

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`.

        Args:
            model_output: [B, C, ...] for the scaled sample.
            timestep: where `sample` is: one of `timesteps`.
            sample: latents [B, C, ...], not scaled.
            s_churn, s_tmin, s_tmax, s_noise: noise that is added before each step (Karras et al., algorithm 2).
            generator: of that noise; a list has one per item; None is torch's own.

        Returns:
            `SchedulerOutput`, or a tuple of its two tensors. The clean sample is at least float32.
        """
        self._check_step(timestep)
        index, levels = self._here(timestep), self._current()
        sigma, lower, clean = self._rounded[index], self._rounded[index + 1], levels.plans[index].clean
        gamma = min(s_churn / len(levels), math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        if gamma > 0:
            raised = sigma * (1 + gamma)
            fresh = source(generator, model_output.dtype)(sample)
            sample = sample.to(torch.promote_types(sample.dtype, torch.float32))
            sample = sample + fresh * (s_noise * math.sqrt(raised**2 - sigma**2))
            if not isinstance(self.parameterization, VPrediction):  # which the ecosystem reads at the level before
                clean = plan(self.parameterization, self.solver, _shown(raised), _shown(lower)).clean
            sigma = raised
        wide, denoised = self._read(sample, model_output, clean)
        moved = self._follow(wide, denoised, sigma, lower)
        return self._taken(moved.to(model_output.dtype), denoised, return_dict)


def _shown(sigma: float) -> Level:
    return Level(1.0, sigma, scale=1.0 / math.sqrt(1.0 + sigma**2))


class EulerAncestralDiscreteScheduler(_Textbook):
    """Euler's method with ancestral noise, as k-diffusion has it, with the ecosystem's keywords and defaults."""

    Config = EulerAncestralConfig
    config: EulerAncestralConfig
    solver: EulerAncestral

    def _compose(self) -> None:
        super()._compose()
        self.solver = EulerAncestral()

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`, one of `timesteps`, as `EulerDiscreteScheduler.step` without churn."""
        self._check_step(timestep)
        index = self._here(timestep)
        weights = self._current().plans[index]
        wide, denoised = self._read(sample, model_output, weights.clean)
        moved = self._follow(wide, denoised, self._rounded[index], weights.move.noise)
        if weights.move.fresh:
            moved = torch.add(moved, source(generator, model_output.dtype)(sample), alpha=weights.move.fresh)
        return self._taken(moved.to(model_output.dtype), denoised, return_dict)
