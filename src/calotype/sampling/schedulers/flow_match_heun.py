"""Heun's method for flow-matching models."""

from typing import Any

from torch import Tensor

from calotype.described import Field
from calotype.sampling.config import SchedulerConfig
from calotype.sampling.parameterization import Flow
from calotype.sampling.schedule import FlowMatching
from calotype.sampling.schedulers.flow_match_euler import FlowMatchScheduler
from calotype.sampling.solvers.heun import Heun


class FlowMatchHeunConfig(SchedulerConfig):
    """The ecosystem's configuration of Heun's method for flow matching."""

    num_train_timesteps: int = Field(1000, ge=1)
    shift: float = Field(1.0, gt=0)


class FlowMatchHeunDiscreteScheduler(FlowMatchScheduler):
    """Heun's method on the flow from noise to data, with the ecosystem's keywords and defaults.

    Each step but the last evaluates the network twice. Sources: Esser et al., "Scaling Rectified Flow Transformers for
    High-Resolution Image Synthesis"; Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
    Models", algorithm 1.
    """

    Config = FlowMatchHeunConfig
    config: FlowMatchHeunConfig
    order = 2

    def _compose(self) -> None:
        self.parameterization = Flow()
        self.solver = Heun(straight=True)
        self.noise_schedule = FlowMatching(self.config.num_train_timesteps, self.config.shift)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """One step from `timestep`, one of `timesteps`. Steps of one loop follow each other.

        Args:
            model_output: velocity [B, C, ...].
            timestep: where `sample` is.
            sample: latents [B, C, ...].

        Returns:
            `SchedulerOutput`, or a tuple of the latents alone.

        Raises:
            InputError: the timestep is a whole number or not of this schedule.
        """
        self._check_step(timestep)
        return self._stepped(model_output, timestep, sample, None, return_dict)

    def _show(self, path: Any, device: Any) -> None:
        super()._show(path, device)
        if self._levels is None:
            self.sigmas = self.sigmas[:-1]  # before set_timesteps the ecosystem shows the training levels alone
