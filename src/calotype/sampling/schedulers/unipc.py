"""UniPC for diffusion and flow-matching models."""

from typing import Any, Literal, Self

from calotype.described import Field, model_validator
from calotype.errors import MissingInput
from calotype.sampling.schedulers.dpm_multistep import check_flow, levels_of
from calotype.sampling.schedulers.fields import FlowShifted, Ramped, Spaced, Thresholded, Training, one_ramp
from calotype.sampling.schedulers.training import PreservingRatios
from calotype.sampling.solvers.unipc import UniPc
from calotype.sampling.stateful import Device, steps_asked

FOREIGN = {"solver_type": frozenset({"midpoint", "heun", "logrho"})}
"""What other schedulers have for these fields."""


class UniPCConfig(Training, Ramped, FlowShifted, Thresholded, Spaced):
    """The ecosystem's configuration of UniPC. `solver_p`, a scheduler object there, is not supported."""

    solver_order: int = Field(2, ge=1)
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: None = None
    final_sigmas_type: Literal["zero", "sigma_min"] | None = "zero"
    rescale_betas_zero_snr: bool = False
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)
    shift_terminal: float | None = Field(None, ge=0, lt=1)

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        check_flow(self, ramps=True)
        if self.shift_terminal is not None and not self.use_flow_sigmas:
            raise ValueError("shift_terminal needs use_flow_sigmas=True: it stretches the sigmas of flow matching")
        if (self.sigma_min or self.sigma_max) and one_ramp(self) is None:
            raise ValueError("sigma_min and sigma_max are the ends of a ramp; give use_karras_sigmas=True or another")
        return self


class UniPCMultistepScheduler(PreservingRatios):
    """Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", with the
    ecosystem's keywords and defaults."""

    Config = UniPCConfig
    config: UniPCConfig
    foreign = FOREIGN

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        config = self.config
        ramp = one_ramp(config)
        self.solver = UniPc(
            config.solver_order,
            config.solver_type,
            config.predict_x0,
            config.lower_order_final,
            config.disable_corrector,
        )
        least = "last" if ramp or config.use_flow_sigmas else "first"
        self.noise_schedule = levels_of(
            config,
            table,
            from_one=True,
            ramp=ramp,
            rounded=bool(config.use_karras_sigmas),
            smallest=config.sigma_min,
            largest=config.sigma_max,
            final=least if config.final_sigmas_type == "sigma_min" else "zero",
        )

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Device = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Sets the steps of the next loop.

        Args:
            num_inference_steps: how many; may be left out where `sigmas` are given.
            device: of `timesteps`.
            sigmas: levels of flow matching before the shift, descending, without the last.
            mu: of a dynamic shift (`use_dynamic_shifting`).

        Raises:
            InputError: a value is missing, contradicts another one or is out of range.
        """
        if num_inference_steps is None and sigmas is None:
            raise MissingInput("give one of num_inference_steps, sigmas")
        self._set(self.schedule(steps_asked(num_inference_steps), sigmas=sigmas, mu=mu), device)
