"""Euler's method for flow-matching models."""

import math
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from calotype.described import Field, model_validator
from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.sampling.levels import Path
from calotype.sampling.parameterization import Flow
from calotype.sampling.schedule import FlowMatching
from calotype.sampling.schedulers.base import NoiseLevels, split_variance
from calotype.sampling.schedulers.fields import Ramped, one_ramp
from calotype.sampling.solver import Euler, Renoise
from calotype.sampling.stateful import ByIndex, Device, Generators, source, steps_asked


class FlowMatchConfig(Ramped):
    """What the ecosystem's configurations of flow matching have in common."""

    num_train_timesteps: int = Field(1000, ge=1)
    shift: float = Field(1.0, gt=0)
    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = Field(256, ge=1)
    max_image_seq_len: int = Field(4096, ge=1)
    invert_sigmas: bool = False
    shift_terminal: float | None = Field(None, ge=0, lt=1)
    time_shift_type: Literal["exponential", "linear"] = "exponential"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.use_dynamic_shifting and self.base_image_seq_len == self.max_image_seq_len:
            raise ValueError("base_image_seq_len and max_image_seq_len must differ for a dynamic shift")
        return self


class FlowMatchEulerConfig(FlowMatchConfig):
    """The ecosystem's configuration of Euler's method."""

    stochastic_sampling: bool = False


class FlowMatchScheduler(ByIndex):
    """What the schedulers of flow matching share."""

    family = "flow"
    alone = True
    noise_schedule: FlowMatching

    @property
    def shift(self) -> float:
        """The static shift."""
        return float(self.config.shift)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is: flow-matching networks are shown it unscaled."""
        return sample

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Noised samples [B, ...] at timesteps [B] of the schedule: `sigma * noise + (1 - sigma) * sample`."""
        sigma = self._levels_at(timestep, sample)
        return (sigma * noise + (1.0 - sigma) * sample).to(sample.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`scale_noise` under the name, and with the order, that other schedulers have."""
        return self.scale_noise(original_samples, timesteps, noise)


class FlowMatchEulerDiscreteScheduler(FlowMatchScheduler):
    """Euler's method on the straight flow from noise to data, with the ecosystem's keywords and defaults.

    Source: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis".
    """

    Config: ClassVar[type[FlowMatchConfig]] = FlowMatchEulerConfig
    config: FlowMatchConfig
    solver: Euler | Renoise

    def _compose(self) -> None:
        config = self.config
        self.parameterization = Flow(reverse=config.invert_sigmas)
        self.solver = Renoise() if config.get("stochastic_sampling") else Euler()
        self.noise_schedule = FlowMatching(
            config.num_train_timesteps,
            config.shift,
            dynamic=config.time_shift_type if config.use_dynamic_shifting else None,
            mu_range=(_or(config.base_shift, 0.5), _or(config.max_shift, 1.15)),
            tokens_range=(config.base_image_seq_len, config.max_image_seq_len),
            terminal=config.shift_terminal,
            ramp=one_ramp(config),
            inverted=config.invert_sigmas,
        )

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Device = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Sets the steps of the next loop.

        Args:
            num_inference_steps: how many; may be left out where `sigmas` or `timesteps` are given.
            device: of `timesteps`.
            sigmas: levels before the shift, descending, without the final 0.
            mu: of a dynamic shift (`use_dynamic_shifting`), and not used by others.
            timesteps: what the network is told; where `sigmas` are not given, these give the levels before the shift.

        Raises:
            InputError: a value is missing, contradicts another one or is out of range.
        """
        steps = steps_asked(num_inference_steps)
        if steps is None and sigmas is None and timesteps is None:
            raise MissingInput("give one of num_inference_steps, sigmas, timesteps")
        mu = mu if self.config.use_dynamic_shifting else None  # pipelines of the ecosystem always pass it
        self._set(self.schedule(steps, sigmas=sigmas, mu=mu, timesteps=timesteps), device)

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
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`.

        Args:
            model_output: velocity [B, C, ...].
            timestep: where `sample` is: one of `timesteps`.
            sample: latents [B, C, ...].
            s_churn, s_tmin, s_tmax, s_noise: for the ecosystem's signature; flow matching has no churn.
            generator: of the noise of `stochastic_sampling`; a list has one per item; None is torch's own.
            per_token_timesteps: not supported.

        Returns:
            `SchedulerOutput`, or a tuple of the latents alone, as the ecosystem's flow matching returns.

        Raises:
            InputError: the timestep is a whole number or not of this schedule; churn or per-token timesteps are asked.
        """
        self._check_step(timestep)
        if s_churn > 0:
            raise UnusedInput("s_churn was given, but flow matching has no churn; leave it out")
        if per_token_timesteps is not None:
            raise InputError("per_token_timesteps are not supported")
        weights = self._current().plans[self._here(timestep)]
        split_variance(model_output, sample, self.solver)
        wide = sample.to(torch.promote_types(sample.dtype, torch.float32))
        moved = weights.fused.of(wide, model_output)
        if weights.move.fresh:  # drawn in float32 whatever the sample's dtype, as the ecosystem does here
            moved = torch.add(moved, source(generator, torch.float32)(sample), alpha=weights.move.fresh)
        return self._taken(moved.to(model_output.dtype), weights.clean.of(wide, model_output), return_dict)

    def _show(self, path: Path | NoiseLevels, device: Device) -> None:
        super()._show(path, device)
        if self._levels is None:
            self.sigmas = self.sigmas[:-1]  # before set_timesteps the ecosystem shows the training levels alone
        elif self.config.invert_sigmas:
            self.sigmas = 1.0 - self.sigmas


FlowMatchEuler = FlowMatchEulerDiscreteScheduler
"""The short name: `FlowMatchEuler(shift=3.0)`."""


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
