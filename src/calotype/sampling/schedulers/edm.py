"""Schedulers for networks with the preconditioning of EDM."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from calotype.described import Field
from calotype.sampling.config import SchedulerConfig
from calotype.sampling.edm import EdmLevels, EdmPrediction
from calotype.sampling.limit import DynamicThreshold
from calotype.sampling.schedulers.base import plan, split_variance
from calotype.sampling.schedulers.fields import Thresholded
from calotype.sampling.solver import Euler
from calotype.sampling.solvers.dpm_multistep import DpmMultistep, SolverType
from calotype.sampling.stateful import ByIndex, Generators, SteppingWithState, source

FOREIGN = {
    "algorithm_type": frozenset({"deis", "data_prediction", "noise_prediction"}),
    "solver_type": frozenset({"logrho", "bh1", "bh2"}),
}
"""What other schedulers have for these fields."""


class EDMConfig(SchedulerConfig):
    """What the ecosystem's configurations for EDM have in common."""

    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    num_train_timesteps: int = Field(1000, ge=1)
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rho: float = Field(7.0, gt=0)
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


class EDMDPMSolverMultistepConfig(EDMConfig, Thresholded):
    """The ecosystem's configuration of DPM-Solver++ for EDM."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False


class CosineDPMSolverConfig(EDMConfig):
    """The ecosystem's configuration of SDE-DPM-Solver++ for networks that are told an angle."""

    sigma_min: float = Field(0.3, gt=0)
    sigma_max: float = Field(500.0, gt=0)
    sigma_data: float = Field(1.0, gt=0)
    sigma_schedule: Literal["karras", "exponential"] = "exponential"
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    solver_order: Literal[1, 2] = 2
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False


class _Preconditioned(ByIndex):
    """What the schedulers here share."""

    told: ClassVar[Literal["log", "angle"]] = "log"
    config: EDMConfig
    family = "edm"
    noise_schedule: EdmLevels

    def _compose(self) -> None:
        config = self.config
        self.parameterization = EdmPrediction(config.sigma_data, negative=config.prediction_type == "v_prediction")
        self.noise_schedule = EdmLevels(
            config.sigma_min,
            config.sigma_max,
            config.sigma_data,
            config.sigma_schedule,
            config.rho,
            final_sigma=config.sigma_min if config.final_sigmas_type == "sigma_min" else 0.0,
            training_steps=config.num_train_timesteps,
            told=self.told,
        )

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """What the network is shown at `timestep`: the sample over `sqrt(sigma^2 + sigma_data^2)`."""
        return self.model_input(sample, self._current(), self._here(timestep))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised samples [B, ...] at timesteps [B] of the schedule: `original + sigma * noise`."""
        sigma = self._levels_at(timesteps, original_samples)
        return (original_samples + noise * sigma).to(original_samples.dtype)


class EDMEulerScheduler(_Preconditioned):
    """Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 2 without its
    second order, with the ecosystem's keywords and defaults."""

    Config = EDMConfig
    solver: Euler

    def _compose(self) -> None:
        super()._compose()
        self.solver = Euler()

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
        here, there = levels.here[index], levels.there[index]
        gamma = min(s_churn / len(levels), math.sqrt(2) - 1) if s_tmin <= here.sigma <= s_tmax else 0.0
        wide = sample.to(torch.promote_types(sample.dtype, torch.float32))
        if gamma > 0:
            raised = here.sigma * (1 + gamma)
            spread = s_noise * math.sqrt(raised**2 - here.sigma**2)
            wide = wide + source(generator, model_output.dtype)(sample) * spread
            here = self.noise_schedule.of_ratio(raised)
        split_variance(model_output, sample, self.solver)
        weights = plan(self.parameterization, self.solver, here, there)
        moved, clean = self._full_step(wide, model_output.to(wide.dtype), weights, self.solver, None)
        return self._taken(moved.to(model_output.dtype), clean, return_dict)


class _Multistep(SteppingWithState, _Preconditioned):
    """What those with the predictions of several steps share."""

    alone = True


class EDMDPMSolverMultistepScheduler(_Multistep):
    """Lu et al., "DPM-Solver++" (2M, SDE-2M, 3M), at the levels of EDM, with the ecosystem's keywords and defaults."""

    Config = EDMDPMSolverMultistepConfig
    config: EDMDPMSolverMultistepConfig
    foreign = FOREIGN

    def _compose(self) -> None:
        super()._compose()
        config = self.config
        self.solver = DpmMultistep(
            config.algorithm_type,
            config.solver_order,
            config.solver_type,
            config.lower_order_final,
            config.euler_at_final,
        )
        if config.thresholding:
            self.limit = DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value)


class CosineDPMSolverMultistepScheduler(_Multistep):
    """Lu et al., "DPM-Solver++" (SDE-2M), for networks that are told the angle of a cosine schedule, as those of Stable
    Audio are, with the ecosystem's keywords and defaults.

    Fresh noise is drawn at each step; the ecosystem takes it from a Brownian path, which differs in its random bits.
    """

    Config = CosineDPMSolverConfig
    config: CosineDPMSolverConfig
    told = "angle"
    foreign = FOREIGN

    def _compose(self) -> None:
        super()._compose()
        config = self.config
        self.solver = DpmMultistep(
            "sde-dpmsolver++",
            config.solver_order,
            config.solver_type,
            config.lower_order_final,
            config.euler_at_final,
        )
