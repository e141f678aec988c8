"""What the diffusion schedulers make of their configurations in common."""

from typing import Any

from torch import Tensor

from calotype.sampling.betas import betas, signal_shares
from calotype.sampling.limit import Clip, DynamicThreshold, Limit


def training_tables(config: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`betas`, `alphas` and `alphas_cumprod`, float32 [T] each."""
    values = betas(
        config.beta_schedule,
        config.beta_start,
        config.beta_end,
        config.num_train_timesteps,
        config.trained_betas,
        config.rescale_betas_zero_snr,
    )
    return values, 1.0 - values, signal_shares(values)


def as_floats(table: Tensor) -> tuple[float, ...]:
    """A table exactly in double precision."""
    return tuple(table.double().tolist())


def limit(config: Any) -> Limit | None:
    """The limit on the predicted clean sample: thresholding goes before clipping."""
    if config.thresholding:
        return DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value)
    return Clip(config.clip_sample_range) if config.clip_sample else None
