"""Parameterizations undo the mixing of clean sample and noise."""

import math

import pytest
import torch

from calotype.errors import ConfigError
from calotype.sampling.moves import Mix
from calotype.sampling.parameterization import Epsilon, Flow, Sample, VPrediction, parameterization

SPHERE = (math.cos(0.7), math.sin(0.7))
LINE = (0.3, 0.7)


@pytest.mark.parametrize(
    ("reads", "level", "output"),
    [
        (Epsilon(), SPHERE, lambda clean, noise, a, s: noise),
        (Sample(), SPHERE, lambda clean, noise, a, s: clean),
        (VPrediction(), SPHERE, lambda clean, noise, a, s: a * noise - s * clean),
        (Flow(), LINE, lambda clean, noise, a, s: noise - clean),
        (Flow(reverse=True), LINE, lambda clean, noise, a, s: clean - noise),
    ],
)
def test_clean_sample_and_noise_are_found(reads, level, output):
    clean, noise = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = level
    x, predicted = alpha * clean + sigma * noise, output(clean, noise, alpha, sigma)
    torch.testing.assert_close(reads.clean(alpha, sigma).of(x, predicted), clean)
    torch.testing.assert_close(reads.noise(alpha, sigma).of(x, predicted), noise)


def test_a_mix_leaves_out_what_it_can():
    x, output = torch.ones(2), torch.full((2,), 3.0)
    assert Mix(0.0, 1.0).of(x, output) is output
    assert Mix(0.0, 2.0).of(x, output).tolist() == [6.0, 6.0]
    assert Mix(1.0, 2.0).of(x, output).tolist() == [7.0, 7.0]
    assert Mix(2.0, 1.0).of(x, output).tolist() == [5.0, 5.0]


def test_where_there_is_no_noise_none_is_found():
    assert Sample().noise(1.0, 0.0) == Mix(0.0, 0.0)


def test_names_are_those_of_the_ecosystem():
    assert parameterization("v_prediction") == VPrediction()
    with pytest.raises(ConfigError, match=r"prediction_type must be one of epsilon, sample, .* got 'velocity'"):
        parameterization("velocity")
    with pytest.raises(ConfigError, match="no signal at all"):
        Epsilon().clean(0.0, 1.0)
