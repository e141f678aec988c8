"""The training noise of discrete-time diffusion: beta schedules and what follows from them.

Tables are made in single precision, as the ecosystem makes them and as published networks were trained with, and are
then taken exactly into double precision: everything that is derived from them here is computed in double.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calotype.errors import ConfigError

ALMOST_NO_SIGNAL = 2.0**-24  # the ecosystem's stand-in for zero signal where sigma = noise / signal must stay finite


def betas(
    schedule: str, start: float, end: float, count: int, trained: Sequence[float] | None = None, zero_snr: bool = False
) -> Tensor:
    """The variance that each of `count` training steps adds, float32 [count].

    `linear` is Ho et al. 2020; `scaled_linear` is linear in its square root (latent diffusion);
    `squaredcos_cap_v2` is Nichol and Dhariwal 2021, eq. 17; `laplace` is Hang and Gu 2024; `sigmoid` is GeoDiff 2022;
    `exp` lets the share of signal fall exponentially.
    `trained` are the values themselves. `zero_snr` leaves no signal at the last step.

    Raises:
        ConfigError: the schedule is unknown, `trained` is too short, or a beta is not between 0 and 1.
    """
    values = _trained(trained, count) if trained is not None else _named(schedule, start, end, count)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ConfigError(f"every beta must be between 0 and 1, got {values.min():g} to {values.max():g}")
    return without_terminal_signal(values) if zero_snr else values


def _trained(values: Sequence[float], count: int) -> Tensor:
    if len(values) < count:
        raise ConfigError(f"trained_betas must hold num_train_timesteps={count} values, got {len(values)}")
    return torch.tensor(values, dtype=torch.float32)


def _named(schedule: str, start: float, end: float, count: int) -> Tensor:
    if schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32).square()
    if schedule == "sigmoid":
        return torch.linspace(-6, 6, count, dtype=torch.float32).sigmoid() * (end - start) + start
    signals = {"squaredcos_cap_v2": _cosine_signal, "laplace": _laplace_signal, "exp": _exponential_signal}
    if schedule not in signals:
        raise ConfigError(
            f"beta_schedule must be one of linear, scaled_linear, sigmoid, {', '.join(signals)}, got {schedule!r}"
        )
    signal = [signals[schedule](i / count) for i in range(count + 1)]
    return torch.tensor([min(1 - b / a, 0.999) for a, b in itertools.pairwise(signal)], dtype=torch.float32)


def _cosine_signal(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _exponential_signal(t: float) -> float:
    return math.exp(-12.0 * t)


def _laplace_signal(t: float) -> float:
    log_snr = -0.5 * math.copysign(1.0, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    snr = math.exp(log_snr)
    return math.sqrt(snr / (1 + snr))


def without_terminal_signal(values: Tensor) -> Tensor:
    """Betas [T] whose last step leaves no signal and whose first is unchanged.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1.
    """
    amplitude = (1 - values).cumprod(0).sqrt()
    first, last = amplitude[0].clone(), amplitude[-1].clone()
    signal = ((amplitude - last) * (first / (first - last))).square()
    return 1 - torch.cat([signal[:1], signal[1:] / signal[:-1]])


def signal_shares(values: Tensor) -> Tensor:
    """`alphas_cumprod`: the share of variance that is still signal after each step. float32 [T]."""
    return (1.0 - values).cumprod(0)


def noise_ratios(shares: Tensor, zero_snr: bool = False) -> Tensor:
    """Noise over signal, `sqrt((1 - a) / a)`, after each step: the sigma of variance-exploding solvers. float32 [T]."""
    if zero_snr:
        shares = torch.cat([shares[:-1], shares.new_tensor([ALMOST_NO_SIGNAL])])
    return ((1 - shares) / shares).sqrt()
