"""Few-step sampling of flow-matching models that were distilled into consistency models."""

from typing import Any, Literal

from torch import Tensor

from calotype.sampling.schedulers.flow_match_euler import FlowMatchConfig, FlowMatchEulerDiscreteScheduler
from calotype.sampling.solver import Renoise
from calotype.sampling.stateful import Generators


class FlowMatchLCMConfig(FlowMatchConfig):
    """The ecosystem's configuration. `scale_factors`, latents that grow from step to step, are not supported."""

    scale_factors: None = None
    upscale_mode: Literal["nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"] = "bicubic"


class FlowMatchLCMScheduler(FlowMatchEulerDiscreteScheduler):
    """Each step predicts the clean sample and noises it anew to the next level, with the ecosystem's keywords.

    Source: Luo et al., "Latent Consistency Models", algorithm 3, on the straight flow from noise to data.
    """

    Config = FlowMatchLCMConfig
    config: FlowMatchLCMConfig
    solver: Renoise

    def _compose(self) -> None:
        super()._compose()
        self.solver = Renoise()

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`.

        Args:
            model_output: velocity [B, C, ...].
            timestep: where `sample` is: one of `timesteps`.
            sample: latents [B, C, ...].
            generator: of the fresh noise; a list has one per item; None is torch's own.

        Returns:
            `SchedulerOutput`, or a tuple of the latents alone.

        Raises:
            InputError: the timestep is a whole number or not of this schedule.
        """
        return super().step(model_output, timestep, sample, generator=generator, return_dict=return_dict)
