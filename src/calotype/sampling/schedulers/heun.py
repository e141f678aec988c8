"""Heun's method for diffusion models."""

from typing import Any, Literal

from calotype.described import Field
from calotype.sampling.schedulers.fields import LatentTraining, PredictionType, Ramped, Spaced
from calotype.sampling.schedulers.training import NoiseOverSignalWithState
from calotype.sampling.solvers.heun import Heun
from calotype.sampling.stateful import Device, steps_asked, steps_or_custom


class HeunConfig(LatentTraining, Ramped, Spaced):
    """The ecosystem's configuration of Heun's method."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear"  # type: ignore[assignment]
    prediction_type: PredictionType = "epsilon"
    clip_sample: bool | None = False
    clip_sample_range: float = Field(1.0, gt=0)


class HeunDiscreteScheduler(NoiseOverSignalWithState):
    """Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1, with the
    ecosystem's keywords and defaults. Each step but the last evaluates the network twice."""

    Config = HeunConfig
    config: HeunConfig
    order = 2

    def _compose(self) -> None:
        super()._compose()
        self.solver = Heun()

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Device = None, timesteps: Any = None
    ) -> None:
        """Sets the steps of the next loop, by number or by descending timesteps. Raises `InputError`."""
        steps_or_custom(num_inference_steps, timesteps=timesteps)
        self._set(self.schedule(steps_asked(num_inference_steps), timesteps=timesteps), device)
