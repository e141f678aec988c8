"""DDIM: deterministic, or with a share of the noise renewed."""

from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError, MissingInput
from calotype.sampling.levels import Level
from calotype.sampling.noise import NoiseSource
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.schedulers.base import Plan, plan
from calotype.sampling.schedulers.fields import Clipped, PredictionType, Spaced, Thresholded, Training
from calotype.sampling.schedulers.training import WholeTimesteps, as_floats
from calotype.sampling.solver import Ddim
from calotype.sampling.spacing import Spacing
from calotype.sampling.stateful import Generators, answer, source


class DDIMConfig(Training, Clipped, Thresholded, Spaced):
    """The ecosystem's configuration of DDIM."""

    set_alpha_to_one: bool = True
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False


class DDIMScheduler(WholeTimesteps):
    """Song et al., "Denoising Diffusion Implicit Models", with the ecosystem's keywords and defaults."""

    Config = DDIMConfig
    config: DDIMConfig
    noise_schedule: VariancePreserving
    solver: Ddim

    def _compose(self) -> None:
        super()._compose()
        self.solver = Ddim()
        shares = as_floats(self.alphas_cumprod)
        self.noise_schedule = VariancePreserving(
            shares,
            self.config.timestep_spacing,
            self.config.steps_offset,
            final_share=1.0 if self.config.set_alpha_to_one else shares[0],
            even_landing=True,
        )

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`.

        Args:
            model_output: [B, C, ...].
            timestep: where `sample` is.
            sample: latents [B, C, ...].
            eta: share of the noise that is renewed; 0 is deterministic and 1 is DDPM.
            use_clipped_model_output: take the noise from the limited clean sample instead of the network.
            generator: of the fresh noise; a list has one per item; None is torch's own.
            variance_noise: the fresh noise itself, [B, C, ...].

        Returns:
            `SchedulerOutput`, or a tuple of its two tensors.
        """
        if self.num_inference_steps is None:
            raise MissingInput("the number of steps is not set; call set_timesteps first")
        if generator is not None and variance_noise is not None and eta > 0:
            raise InputError("give generator or variance_noise, not both")
        here = self._timestep(timestep)
        levels = self._level(here), self._level(here - len(self) // self.num_inference_steps)
        weights = plan(self.parameterization, Ddim(eta), *levels)
        if use_clipped_model_output:
            weights = _from_clean(weights, levels[0])
        draw: NoiseSource = (
            source(generator, model_output.dtype) if variance_noise is None else lambda _: variance_noise
        )
        moved, clean = self._full_step(sample, model_output, weights, self.solver, draw)
        dtype = torch.result_type(sample, model_output)
        return answer(moved.to(dtype), clean.to(dtype), return_dict)

    def _level(self, t: int) -> Level:
        return self.noise_schedule.level(t)


def _from_clean(weights: Plan, here: Level) -> Plan:
    """The same step with the noise worked out from the clean sample: `noise = (x - alpha * clean) / sigma`."""
    move = weights.move
    if here.sigma == 0.0:
        return weights._replace(move=move._replace(noise=0.0))
    share = move.noise / here.sigma
    return weights._replace(
        move=move._replace(latents=move.latents + share, clean=move.clean - share * here.alpha, noise=0.0)
    )
