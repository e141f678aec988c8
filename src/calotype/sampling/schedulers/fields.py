"""Fields that the configurations of several schedulers share, with the ecosystem's names and defaults."""

from typing import Any, Literal, Self

from calotype.described import Field, model_validator
from calotype.sampling.config import Numbers, SchedulerConfig
from calotype.sampling.spacing import Ramp, Spacing

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class Training(SchedulerConfig):
    """The noise that a network was trained with."""

    num_train_timesteps: int = Field(1000, ge=1)
    beta_start: float = Field(0.0001, ge=0)
    beta_end: float = Field(0.02, ge=0)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Numbers | None = None


class LatentTraining(Training):
    """The same with the betas of latent diffusion, which k-diffusion's methods have for defaults."""

    beta_start: float = Field(0.00085, ge=0)
    beta_end: float = Field(0.012, ge=0)


class Spaced(SchedulerConfig):
    """Where steps are put."""

    timestep_spacing: Spacing = "linspace"
    steps_offset: int = Field(0, ge=0)


class Ramped(SchedulerConfig):
    """Ramps of sigmas, of which there is at most one."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False

    @model_validator(mode="after")
    def _one_ramp(self) -> Self:
        one_ramp(self)
        return self


class Thresholded(SchedulerConfig):
    """Dynamic thresholding of the predicted clean sample."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, gt=0, le=1)
    sample_max_value: float = Field(1.0, gt=0)


class Clipped(SchedulerConfig):
    """Clipping of the predicted clean sample."""

    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)


class FlowLevels(SchedulerConfig):
    """Levels of flow matching in a scheduler for diffusion."""

    use_flow_sigmas: bool | None = False
    flow_shift: float | None = Field(1.0, gt=0)


class FlowShifted(FlowLevels):
    """The same with a shift that depends on the picture."""

    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"


def one_ramp(config: Any) -> Ramp | None:
    """The ramp that a configuration asks for. Raises `ValueError` where it asks for several."""
    ramps: tuple[Ramp, ...] = ("karras", "exponential", "beta")
    asked = [ramp for ramp in ramps if getattr(config, f"use_{ramp}_sigmas")]
    if len(asked) > 1:
        raise ValueError(f"only one of {' and '.join(f'use_{ramp}_sigmas' for ramp in asked)} can be true")
    return asked[0] if asked else None
