"""What the diffusion schedulers make of their configurations in common."""

from typing import Any

import torch
from torch import Tensor

from calotype.sampling.betas import betas, noise_ratios, signal_shares
from calotype.sampling.limit import Clip, DynamicThreshold, Limit
from calotype.sampling.parameterization import parameterization
from calotype.sampling.schedule import VarianceExploding
from calotype.sampling.schedulers.fields import one_ramp
from calotype.sampling.stateful import ByIndex, ByTimestep, Generators, SteppingWithState


def training_tables(config: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`betas`, `alphas` and `alphas_cumprod`, float32 [T] each."""
    values = betas(
        config.beta_schedule,
        config.beta_start,
        config.beta_end,
        config.num_train_timesteps,
        config.trained_betas,
        bool(config.get("rescale_betas_zero_snr")),
    )
    return values, 1.0 - values, signal_shares(values)


def as_floats(table: Tensor) -> tuple[float, ...]:
    """A table exactly in double precision."""
    return tuple(table.double().tolist())


def limit(config: Any) -> Limit | None:
    """The limit on the predicted clean sample: thresholding goes before clipping."""
    if config.get("thresholding"):
        return DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value)
    return Clip(config.clip_sample_range) if config.get("clip_sample") else None


class WholeTimesteps(ByTimestep):
    """What the schedulers over whole training timesteps share."""

    family = "diffusion"

    def _compose(self) -> None:
        self.betas, self.alphas, self.alphas_cumprod = training_tables(self.config)
        self.parameterization = parameterization(self.config.prediction_type)
        self.limit = limit(self.config)


class _OfRatios(ByIndex):
    """What the schedulers share whose sigma is noise over signal."""

    family = "diffusion"
    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor

    def _compose(self) -> None:
        zero_snr = bool(self.config.get("rescale_betas_zero_snr"))
        self.betas, self.alphas, shares = training_tables(self.config)
        ratios = noise_ratios(shares, zero_snr)
        self.alphas_cumprod = 1.0 / (1.0 + ratios.square()) if zero_snr else shares
        self.parameterization = parameterization(self.config.prediction_type)
        self.limit = limit(self.config)
        self._compose_levels(as_floats(ratios))

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        """Sets the schedule, and the solver where the class does not; `table` is noise over signal at each training
        timestep."""
        raise NotImplementedError


class NoiseOverSignal(_OfRatios):
    """Those whose networks are shown scaled latents."""

    noise_schedule: VarianceExploding

    def _compose_levels(self, table: tuple[float, ...]) -> None:
        self.noise_schedule = self._noise_schedule(table)

    def _noise_schedule(self, table: tuple[float, ...]) -> VarianceExploding:
        ramp = one_ramp(self.config) if "use_karras_sigmas" in self.config else None
        return VarianceExploding(table, self.config.timestep_spacing, self.config.steps_offset, ramp=ramp)

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """What the network is shown at `timestep`: the sample over `sqrt(1 + sigma^2)`."""
        return self.model_input(sample, self._current(), self._here(timestep))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised samples [B, ...] at timesteps [B] of the schedule: `original + sigma * noise`."""
        sigma = self._levels_at(timesteps, original_samples)
        return (original_samples + noise * sigma).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The target [B, ...] of v-prediction at timesteps [B] of the schedule, for clean `sample`."""
        sigma = self._levels_at(timesteps, sample)
        return ((noise - sigma * sample) / (1.0 + sigma**2).sqrt()).to(sample.dtype)


class NoiseOverSignalWithState(SteppingWithState, NoiseOverSignal):
    """The same with a solver that has a state."""


class PreservingRatios(_OfRatios):
    """Those whose networks are shown latents as they are."""

    draws_wide = True
    alone = True

    @property
    def _flows(self) -> bool:
        return bool(self.config.get("use_flow_sigmas"))

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised samples [B, ...] at timesteps [B] of the schedule."""
        sigma = self._levels_at(timesteps, original_samples)
        alpha = 1.0 - sigma if self._flows else 1.0 / (1.0 + sigma**2).sqrt()
        spread = sigma if self._flows else sigma * alpha
        return (alpha * original_samples + spread * noise).to(original_samples.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`, one of `timesteps`. Steps of one loop follow each other.

        Args:
            model_output: [B, C, ...], or [B, 2C, ...] with a learned variance, which is not used.
            timestep: where `sample` is.
            sample: latents [B, C, ...].
            generator: of the fresh noise of a stochastic solver; a list has one per item; None is torch's own.
            variance_noise: the fresh noise itself, [B, C, ...].

        Returns:
            `SchedulerOutput`, or a tuple of the latents alone, as the ecosystem's schedulers of this kind return.
        """
        return self._stepped(model_output, timestep, sample, generator, return_dict, variance_noise)

    def _show(self, path: Any, device: Any) -> None:
        levels = [*path.here, path.there[-1]]
        sigmas = [level.sigma if self._flows else level.sigma / level.alpha for level in levels]
        self.timesteps = torch.tensor([int(level.timestep) for level in path.here], dtype=torch.int64, device=device)
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
