"""DEIS for diffusion models."""

from typing import Literal, Self

from calotype.described import model_validator
from calotype.sampling.schedulers.dpm_multistep import check_flow, levels_of
from calotype.sampling.schedulers.fields import FlowShifted, Ramped, Spaced, Thresholded, Training, one_ramp
from calotype.sampling.schedulers.training import PreservingRatios
from calotype.sampling.solvers.deis import Deis
from calotype.sampling.stateful import Device, steps_asked, steps_or_custom

FOREIGN = {
    "algorithm_type": frozenset(
        {"dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "data_prediction", "noise_prediction"}
    ),
    "solver_type": frozenset({"midpoint", "heun", "bh1", "bh2"}),
}
"""What other schedulers have for these fields."""


class DEISConfig(Training, Ramped, FlowShifted, Thresholded, Spaced):
    """The ecosystem's configuration of DEIS."""

    solver_order: Literal[1, 2, 3] = 2
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"
    lower_order_final: bool = True

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        check_flow(self)
        return self


class DEISMultistepScheduler(PreservingRatios):
    """Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", with the ecosystem's
    keywords and defaults."""

    Config = DEISConfig
    config: DEISConfig
    foreign = FOREIGN

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        config = self.config
        ramp = one_ramp(config)
        self.solver = Deis(config.solver_order, config.lower_order_final)
        self.noise_schedule = levels_of(
            config,
            table,
            ramp=ramp,
            rounded=bool(config.use_karras_sigmas),
            final="last" if ramp or config.use_flow_sigmas else "first",
        )

    def set_timesteps(self, num_inference_steps: int, device: Device = None, mu: float | None = None) -> None:
        """Sets the steps of the next loop; `mu` is that of a dynamic shift. Raises `InputError`."""
        steps_or_custom(num_inference_steps)
        self._set(self.schedule(steps_asked(num_inference_steps), mu=mu), device)
