"""SA-Solver for diffusion models."""

import math
from typing import Annotated, Any, Literal, Self

from calotype.described import BeforeValidator, Field, model_validator
from calotype.sampling.schedulers.dpm_multistep import check_flow, levels_of, unused
from calotype.sampling.schedulers.fields import FlowLevels, Ramped, Spaced, Thresholded, Training, one_ramp
from calotype.sampling.schedulers.training import PreservingRatios
from calotype.sampling.solvers.sa import SaSolver
from calotype.sampling.stateful import Device, steps_asked, steps_or_custom

FOREIGN = {
    "algorithm_type": frozenset({"deis", "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"}),
    "variance_type": frozenset({"fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"}),
}
"""What DDPM, DEIS and DPM-Solver have for these fields."""


def _no_function(value: Any) -> Any:
    if value is not None:
        raise ValueError(
            "tau_func is a function, which no file can hold; give the amount of noise to the solver, "
            "scheduler.schedule(steps, solver=SaSolver(tau=0.5, noisy=(200, 800))) of calotype.sampling.solvers.sa"
        )
    return value


class SASolverConfig(Training, Ramped, FlowLevels, Thresholded, Spaced):
    """The ecosystem's configuration of SA-Solver, whose noise is that of `tau_func=None`: 1 from timestep 200 to 800,
    0 at all others."""

    predictor_order: Literal[1, 2, 3, 4] = 2
    corrector_order: Literal[1, 2, 3, 4] = 2
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    tau_func: Annotated[None, BeforeValidator(_no_function)] = None
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lower_order_final: bool = True
    lambda_min_clipped: float = Field(-math.inf, allow_inf_nan=True)
    variance_type: Literal["learned", "learned_range"] | None = None

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        check_flow(self)
        return self


class SASolverScheduler(PreservingRatios):
    """Xue et al., "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models", with the ecosystem's
    keywords and defaults."""

    Config = SASolverConfig
    config: SASolverConfig
    foreign = FOREIGN

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        config = self.config
        ramp = one_ramp(config)
        self.solver = SaSolver(
            config.predictor_order,
            config.corrector_order,
            config.algorithm_type == "data_prediction",
            config.lower_order_final,
            learned=config.variance_type is not None,
        )
        self.noise_schedule = levels_of(
            config,
            table,
            ramp=ramp,
            rounded=bool(config.use_karras_sigmas),
            unused=unused(table, config.lambda_min_clipped),
            final="last" if ramp or config.use_flow_sigmas else "first",
        )

    def set_timesteps(self, num_inference_steps: int, device: Device = None) -> None:
        """Sets the steps of the next loop. Raises `InputError`."""
        steps_or_custom(num_inference_steps)
        self._set(self.schedule(steps_asked(num_inference_steps)), device)
