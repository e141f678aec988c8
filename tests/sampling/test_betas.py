"""Beta schedules: the tables themselves are compared with the reference in `schedulers/`."""

import pytest
import torch

from calotype.errors import ConfigError
from calotype.sampling.betas import betas, noise_ratios, signal_shares


def test_no_signal_is_left_and_the_first_step_stays():
    usual = betas("scaled_linear", 0.00085, 0.012, 1000)
    bare = betas("scaled_linear", 0.00085, 0.012, 1000, zero_snr=True)
    assert float(signal_shares(bare)[-1]) == 0.0
    assert float(bare[0]) == pytest.approx(float(usual[0]), rel=1e-4)


def test_sigma_stays_finite_without_signal():
    shares = signal_shares(betas("linear", 0.0001, 0.02, 1000, zero_snr=True))
    assert noise_ratios(shares, zero_snr=True).isfinite().all()
    assert float(noise_ratios(shares, zero_snr=True)[-1]) == pytest.approx(4096.0, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 0.0001, 0.02, 10), "beta_schedule must be one of linear, scaled_linear, sigmoid"),
        (("linear", 0.0001, 1.5, 10), "every beta must be between 0 and 1, got 0.0001 to 1.5"),
        (("linear", 0.0001, 0.02, 10, [0.1, 0.2]), "must hold num_train_timesteps=10 values, got 2"),
        (("linear", 0.0001, 0.02, 2, [0.1, float("nan")]), "every beta must be between 0 and 1"),
    ],
)
def test_what_is_no_schedule_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        betas(*arguments)


def test_tables_are_in_single_precision():
    assert betas("linear", 0.0001, 0.02, 4).dtype == torch.float32
