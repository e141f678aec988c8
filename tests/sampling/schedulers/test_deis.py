"""DEIS against the reference."""

import itertools

import pytest

from calotype.errors import ConfigError
from calotype.sampling import DEISMultistepScheduler

DEIS = "DEISMultistepScheduler"
STEPS = (1, 2, 5, 20)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(DEIS, steps=STEPS, prediction_type=prediction, timestep_spacing=spacing, **LATENT)


@pytest.mark.parametrize(
    "config",
    [
        {"solver_order": 1},
        {"solver_order": 3},
        {"solver_order": 3, "lower_order_final": False},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"thresholding": True, "sample_max_value": 2.0},
    ],
)
def test_settings_equal_the_reference(oracle, config):
    oracle.compare(DEIS, steps=STEPS, **config, **LATENT)


def test_flow_matching_equals_the_reference(oracle):
    """The first level has a signal of 0.0003, by which both divide: single precision is left with 4 digits."""
    oracle.compare(DEIS, steps=STEPS, single=False, **FLOW, **LATENT)


def test_both_faces_agree(oracle):
    oracle.both_faces(DEISMultistepScheduler(solver_order=3, **LATENT))


def test_solvers_of_others_are_refused():
    with pytest.raises(ConfigError, match="'solver_type'"):
        DEISMultistepScheduler(solver_type="midpoint")
