"""DPM-Solver and DPM-Solver++ with several steps, forwards and inverted."""

import math
from typing import Any, Literal, Self

from calotype.described import Field, model_validator
from calotype.sampling.inverse import InverseRatios
from calotype.sampling.log_snr import FlowSteps, Preserving
from calotype.sampling.schedule import FlowMatching
from calotype.sampling.schedulers.fields import FlowLevels, FlowShifted, Ramped, Spaced, Thresholded, Training, one_ramp
from calotype.sampling.schedulers.training import PreservingRatios
from calotype.sampling.solvers.dpm_multistep import DpmMultistep, SolverType
from calotype.sampling.solvers.exponential import Algorithm
from calotype.sampling.spacing import Ramp
from calotype.sampling.stateful import Device, steps_asked, steps_or_custom

FOREIGN = {
    "algorithm_type": frozenset({"deis", "data_prediction", "noise_prediction"}),
    "solver_type": frozenset({"logrho", "bh1", "bh2"}),
    "variance_type": frozenset({"fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"}),
}
"""What DDPM, DEIS, SA-Solver and UniPC have for these fields."""


class DPMSolverConfig(Training, Ramped, FlowLevels, Thresholded):
    """What the ecosystem's configurations of DPM-Solver have in common."""

    solver_order: Literal[1, 2, 3] = 2
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    algorithm_type: Algorithm = "dpmsolver++"
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    lambda_min_clipped: float = Field(-math.inf, allow_inf_nan=True)
    variance_type: Literal["learned", "learned_range"] | None = None

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        check_flow(self)
        return self


class DPMSolverMultistepConfig(FlowShifted, DPMSolverConfig, Spaced):
    """The ecosystem's configuration of the multistep method."""

    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    final_sigmas_type: Literal["zero", "sigma_min"] | None = "zero"
    rescale_betas_zero_snr: bool = False

    @model_validator(mode="after")
    def _one_of_all_ramps(self) -> Self:
        if self.use_lu_lambdas and one_ramp(self):
            raise ValueError(f"only one of use_lu_lambdas and use_{one_ramp(self)}_sigmas can be true")
        return self


class DPMSolverMultistepInverseConfig(DPMSolverConfig, Spaced):
    """The ecosystem's configuration of the inverted method."""

    euler_at_final: bool = False

    @model_validator(mode="after")
    def _can_be_inverted(self) -> Self:
        if self.algorithm_type.startswith("sde"):
            raise ValueError(f"algorithm_type {self.algorithm_type!r} adds noise, which cannot be inverted")
        if self.use_flow_sigmas:
            raise ValueError("use_flow_sigmas is not supported for the inversion")
        return self


class DPMSolverMultistepScheduler(PreservingRatios):
    """Lu et al., "DPM-Solver" and "DPM-Solver++" (2M, SDE-2M and 3M), with the ecosystem's keywords and defaults."""

    Config = DPMSolverMultistepConfig
    config: DPMSolverMultistepConfig
    foreign = FOREIGN

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        config = self.config
        self.solver = DpmMultistep(
            config.algorithm_type,
            config.solver_order,
            config.solver_type,
            config.lower_order_final,
            config.euler_at_final,
            learned=config.variance_type is not None,
        )
        ramp: Ramp | None = "exponential" if config.use_lu_lambdas else one_ramp(config)
        even = bool(config.use_karras_sigmas or config.use_lu_lambdas)
        self.noise_schedule = levels_of(
            config,
            table,
            ramp=ramp,
            rounded=even and config.beta_schedule != "squaredcos_cap_v2",
            unused=unused(table, config.lambda_min_clipped),
            final="first" if config.final_sigmas_type == "sigma_min" else "zero",
        )

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Device = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Sets the steps of the next loop, by number or by descending timesteps.

        Args:
            num_inference_steps: how many.
            device: of `timesteps`.
            mu: of a dynamic shift (`use_dynamic_shifting`).
            timesteps: whole training timesteps.

        Raises:
            InputError: a value is missing, contradicts another one or is out of range.
        """
        steps_or_custom(num_inference_steps, timesteps=timesteps)
        self._set(self.schedule(steps_asked(num_inference_steps), timesteps=timesteps, mu=mu), device)


class DPMSolverMultistepInverseScheduler(PreservingRatios):
    """The multistep method from a clean sample to the noise that it comes from, with the ecosystem's keywords."""

    Config = DPMSolverMultistepInverseConfig
    config: DPMSolverMultistepInverseConfig
    foreign = FOREIGN
    unread = frozenset({"flow_shift"})

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        config = self.config
        self.solver = DpmMultistep(
            config.algorithm_type,
            config.solver_order,
            config.solver_type,
            config.lower_order_final,
            config.euler_at_final,
            learned=config.variance_type is not None,
        )
        down = levels_of(
            config,
            table,
            ramp=one_ramp(config),
            rounded=bool(config.use_karras_sigmas),
            unused=unused(table, config.lambda_min_clipped),
        )
        assert isinstance(down, Preserving)
        self.noise_schedule = InverseRatios(down)


def levels_of(config: Any, table: tuple[float, ...], *, from_one: bool = False, **kind: Any) -> Preserving | FlowSteps:
    """The levels that a configuration of DPM-Solver's family describes; `kind` are fields of `Preserving`."""
    if not config.use_flow_sigmas or kind.get("ramp"):
        spacing, offset = config.get("timestep_spacing", "linspace"), config.get("steps_offset", 0)
        return Preserving(table, spacing, offset, flow=bool(config.use_flow_sigmas), **kind)
    shifted = FlowMatching(
        config.num_train_timesteps,
        config.flow_shift or 1.0,
        dynamic=config.time_shift_type if config.get("use_dynamic_shifting") else None,
        terminal=config.get("shift_terminal"),
    )
    return FlowSteps(shifted, from_one, kind.get("final", "zero"), first=table[0])


def unused(table: tuple[float, ...], least: float) -> int:
    """How many training timesteps have a `lambda = log(alpha / sigma)` below the least that is wanted."""
    return sum(-math.log(ratio) < least for ratio in table)


def check_flow(config: Any, ramps: bool = False) -> None:
    """Raises `ValueError` where flow matching is asked for by half, or with a ramp that it is not defined with."""
    if config.prediction_type == "flow_prediction" and not config.use_flow_sigmas:
        raise ValueError("prediction_type 'flow_prediction' needs use_flow_sigmas=True: it is read at levels of flow")
    if config.use_flow_sigmas and one_ramp(config) and not ramps:
        raise ValueError(f"only one of use_flow_sigmas and use_{one_ramp(config)}_sigmas can be true")
    if config.get("use_dynamic_shifting") and not config.use_flow_sigmas:
        raise ValueError("use_dynamic_shifting needs use_flow_sigmas=True: it shifts the sigmas of flow matching")
