"""DPM-Solver and DPM-Solver++ with several evaluations a step."""

from typing import Any, Literal

from calotype.sampling.schedulers.dpm_multistep import FOREIGN, DPMSolverConfig, levels_of, unused
from calotype.sampling.schedulers.fields import FlowShifted, one_ramp
from calotype.sampling.schedulers.training import PreservingRatios
from calotype.sampling.solvers.dpm_singlestep import DpmSinglestep
from calotype.sampling.stateful import Device, steps_asked, steps_or_custom


class DPMSolverSinglestepConfig(FlowShifted, DPMSolverConfig):
    """The ecosystem's configuration of the singlestep method."""

    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    lower_order_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] | None = "zero"


class DPMSolverSinglestepScheduler(PreservingRatios):
    """Lu et al., "DPM-Solver" (2 and 3) and "DPM-Solver++" (2S), with the ecosystem's keywords and defaults.

    `num_inference_steps` counts network evaluations.
    """

    Config = DPMSolverSinglestepConfig
    config: DPMSolverSinglestepConfig
    draws_wide = False
    foreign = FOREIGN

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        config = self.config
        self.solver = DpmSinglestep(
            config.algorithm_type,
            config.solver_order,
            config.solver_type,
            config.lower_order_final,
            learned=config.variance_type is not None,
        )
        self.noise_schedule = levels_of(
            config,
            table,
            ramp=one_ramp(config),
            rounded=bool(config.use_karras_sigmas),
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
        """Sets the steps of the next loop, as `DPMSolverMultistepScheduler.set_timesteps`."""
        steps_or_custom(num_inference_steps, timesteps=timesteps)
        self._set(self.schedule(steps_asked(num_inference_steps), timesteps=timesteps, mu=mu), device)
