"""Latent consistency models and trajectory consistency distillation."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from calotype.described import Field
from calotype.errors import InputError, MissingInput
from calotype.sampling.consistency import DistilledSteps, Lcm, Tcd
from calotype.sampling.request import Request
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.schedulers.base import plan
from calotype.sampling.schedulers.fields import Clipped, PredictionType, Spaced, Thresholded, Training
from calotype.sampling.schedulers.training import WholeTimesteps, as_floats
from calotype.sampling.solver import Solver
from calotype.sampling.spacing import Spacing
from calotype.sampling.stateful import Counting, Device, Generators, source, steps_asked, steps_or_custom


class ConsistencyConfig(Training, Clipped, Thresholded, Spaced):
    """The ecosystem's configuration of both methods.

    Neither method has a use for `timestep_spacing`, `steps_offset` and `set_alpha_to_one`: the timesteps are those of
    the distillation, and the last step ends where the method says. They are here because published files hold them,
    for schedulers that are made from this one.
    """

    beta_start: float = Field(0.00085, ge=0)
    beta_end: float = Field(0.012, ge=0)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    original_inference_steps: int = Field(50, ge=1)
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing = "leading"
    timestep_scaling: float = Field(10.0, gt=0)
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class LCMSchedulerOutput:
    """What `LCMScheduler.step` returns: the next latents and the consistency function's clean sample, [B, C, ...]."""

    prev_sample: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class TCDSchedulerOutput:
    """What `TCDScheduler.step` returns: the next latents, and those before they were noised again, [B, C, ...]."""

    prev_sample: Tensor
    pred_noised_sample: Tensor


_UNREAD = frozenset({"timestep_spacing", "steps_offset", "set_alpha_to_one"})


class _Distilled(Counting, WholeTimesteps):
    """What both methods share."""

    Config = ConsistencyConfig
    config: ConsistencyConfig
    unread = _UNREAD
    noise_schedule: DistilledSteps

    def _compose(self) -> None:
        super()._compose()
        if self.config.original_inference_steps > self.config.num_train_timesteps:
            raise InputError(
                f"original_inference_steps must be at most num_train_timesteps={self.config.num_train_timesteps}, got "
                f"{self.config.original_inference_steps}"
            )
        levels = VariancePreserving(as_floats(self.alphas_cumprod))
        self.noise_schedule = DistilledSteps(levels, self.config.original_inference_steps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Device = None,
        original_inference_steps: int | None = None,
        timesteps: Any = None,
        strength: float = 1.0,
    ) -> None:
        """Sets the steps of the next loop, by number or by descending timesteps.

        Args:
            num_inference_steps: how many.
            device: of `timesteps`.
            original_inference_steps: how many timesteps the network was distilled at, where it is not the config's.
            timesteps: whole training timesteps.
            strength: share of the noise to start from.

        Raises:
            InputError: a value is missing, contradicts another one or is out of range.
        """
        steps_or_custom(num_inference_steps, timesteps=timesteps)
        original = original_inference_steps or self.config.original_inference_steps
        if not 1 <= original <= len(self):
            raise InputError(f"original_inference_steps must be from 1 to {len(self)}, got {original}")
        request = Request(steps_asked(num_inference_steps), strength, timesteps=timesteps)
        path = replace(self.noise_schedule, count=original).path(request)
        self._set(self._planned(path, self.solver), device)

    def _moved(
        self, model_output: Tensor, timestep: Any, sample: Tensor, solver: Solver, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """One step: the latents, and the sample that they are when the fresh noise is not added."""
        if self.num_inference_steps is None:
            raise MissingInput("the number of steps is not set; call set_timesteps first")
        index, levels = self._here(timestep), self._current()
        weights = plan(self.parameterization, solver, levels.here[index], levels.there[index])
        fresh = weights.move.fresh
        quiet = weights._replace(move=weights.move._replace(fresh=0.0))
        moved, _ = self._full_step(sample, model_output, quiet, solver, None)
        before = moved / math.sqrt(1.0 - fresh**2)
        if fresh:
            moved = torch.add(moved, source(generator, model_output.dtype)(sample), alpha=fresh)
        assert self.step_index is not None
        self.step_index += 1
        return moved.to(model_output.dtype), before


class LCMScheduler(_Distilled):
    """Luo et al., "Latent Consistency Models", with the ecosystem's keywords and defaults."""

    solver: Lcm

    def _compose(self) -> None:
        super()._compose()
        self.solver = Lcm(self.config.timestep_scaling)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`, one of `timesteps`.

        Args:
            model_output: [B, C, ...].
            timestep: where `sample` is.
            sample: latents [B, C, ...].
            generator: of the fresh noise; a list has one per item; None is torch's own.

        Returns:
            `LCMSchedulerOutput`, or a tuple of its two tensors.
        """
        moved, denoised = self._moved(model_output, timestep, sample, self.solver, generator)
        return LCMSchedulerOutput(moved, denoised) if return_dict else (moved, denoised)


class TCDScheduler(_Distilled):
    """Zheng et al., "Trajectory Consistency Distillation", with the ecosystem's keywords and defaults.

    `timestep_scaling` is LCM's; it is here because published files hold it.
    """

    unread = _UNREAD | {"timestep_scaling"}
    solver: Tcd

    def _compose(self) -> None:
        super()._compose()
        self.noise_schedule = replace(self.noise_schedule, ends_at_zero=True)
        self.solver = Tcd(as_floats(self.alphas_cumprod))

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.3,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`, as `LCMScheduler.step`.

        Args:
            eta: from 0, which adds no noise, to 1, which goes to the clean end and noises again.

        Returns:
            `TCDSchedulerOutput`, or a tuple of its two tensors.

        Raises:
            InputError: `eta` is not from 0 to 1.
        """
        moved, before = self._moved(model_output, timestep, sample, replace(self.solver, eta=eta), generator)
        return TCDSchedulerOutput(moved, before) if return_dict else (moved, before)
