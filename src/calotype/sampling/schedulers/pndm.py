"""PNDM for diffusion models."""

from typing import Any, Literal

from torch import Tensor

from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.schedulers.fields import Spaced, Training
from calotype.sampling.schedulers.training import WholeTimesteps, as_floats
from calotype.sampling.solvers.pndm import Pndm
from calotype.sampling.spacing import Spacing
from calotype.sampling.stateful import Counting


class PNDMConfig(Training, Spaced):
    """The ecosystem's configuration of PNDM."""

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"


class PNDMScheduler(Counting, WholeTimesteps):
    """Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", with the ecosystem's keywords and
    defaults. The first steps evaluate the network more than once."""

    Config = PNDMConfig
    config: PNDMConfig
    alone = True

    def _compose(self) -> None:
        super()._compose()
        shares = as_floats(self.alphas_cumprod)
        self.solver = Pndm(self.parameterization, runge_kutta=not self.config.skip_prk_steps)
        self.noise_schedule = VariancePreserving(
            shares,
            self.config.timestep_spacing,
            self.config.steps_offset,
            final_share=1.0 if self.config.set_alpha_to_one else shares[0],
            even_landing=True,
        )

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """One step from `timestep`, one of `timesteps`. Steps of one loop follow each other.

        Args:
            model_output: [B, C, ...].
            timestep: where `sample` is.
            sample: latents [B, C, ...].

        Returns:
            `SchedulerOutput`, or a tuple of the latents alone.
        """
        return self._stepped(model_output, timestep, sample, None, return_dict)
