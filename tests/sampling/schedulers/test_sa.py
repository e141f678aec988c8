"""SA-Solver against the reference, whose `tau_func` is this solver's tau and the timesteps that it is for."""

import itertools
import re

import diffusers
import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.sampling import DPMSolverMultistepScheduler, SASolverScheduler
from calotype.sampling.solvers.sa import SaSolver, _moments

SA = "SASolverScheduler"
STEPS = (1, 2, 5, 20)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
ALGORITHMS = ("data_prediction", "noise_prediction")


@pytest.mark.parametrize(("prediction", "algorithm"), [*itertools.product(PREDICTIONS, ALGORITHMS)])
def test_trajectories_equal_the_reference(oracle, prediction, algorithm):
    oracle.compare(SA, steps=STEPS, prediction_type=prediction, algorithm_type=algorithm, **LATENT)


@pytest.mark.parametrize(
    "config",
    [
        {"predictor_order": 1, "corrector_order": 1},
        {"predictor_order": 2, "lower_order_final": False},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"timestep_spacing": "trailing"},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"thresholding": True, "sample_max_value": 2.0},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    ],
)
def test_settings_equal_the_reference(oracle, config):
    oracle.compare(SA, steps=STEPS, **{**LATENT, **config})


@pytest.mark.parametrize("orders", [(3, 2), (3, 3), (2, 4)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_high_orders_equal_the_reference(oracle, orders, algorithm):
    """The reference's coefficients subtract what is nearly equal: single precision leaves it 4 digits."""
    predictor, corrector = orders
    oracle.compare(
        SA,
        steps=STEPS,
        single=False,
        predictor_order=predictor,
        corrector_order=corrector,
        algorithm_type=algorithm,
        **LATENT,
    )


def test_flow_matching_equals_the_reference(oracle):
    oracle.compare(SA, steps=STEPS, single=False, **FLOW, **LATENT)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("tau", "noisy"), [(0.0, (0, 999)), (1.0, (0, 999)), (0.6, (300, 500))])
def test_tau_is_the_reference_s_function(oracle, tau, noisy, algorithm):
    mine = SASolverScheduler(algorithm_type=algorithm, **LATENT)
    reference = diffusers.SASolverScheduler(
        algorithm_type=algorithm, tau_func=lambda t: tau if noisy[0] <= t <= noisy[1] else 0.0, **LATENT
    )
    reference.set_timesteps(12)
    levels = mine.schedule(12, solver=SaSolver(predict_x0=algorithm == ALGORITHMS[0], tau=tau, noisy=noisy))
    noise, generator = oracle.noise(torch.float64), torch.Generator().manual_seed(3)
    found = oracle.loop(
        mine,
        levels,
        mine.initial(noise, levels),
        lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype),
    )
    with oracle.double(reference):
        wanted = oracle.trajectory(reference, noise)[-1]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_both_faces_agree(oracle):
    oracle.both_faces(SASolverScheduler(predictor_order=3, **LATENT))


@pytest.mark.parametrize("rate", [-3.0, -1.001, -0.999, -1e-6, 0.0, 1e-6, 0.999, 1.001, 8.0])
def test_moments_are_the_integrals(rate):
    v = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 1
    wanted = [float((torch.exp(rate * v) * v**m).mean()) for m in range(4)]
    assert _moments(rate, 4) == pytest.approx(wanted, rel=1e-9)


def test_a_step_without_end_is_its_last_value(oracle):
    """Levels of another scheduler end without noise; the clean sample is all that is left there."""
    other = DPMSolverMultistepScheduler(prediction_type="sample", **LATENT)
    for solver, steps in ((SaSolver(noisy=(0, 999)), 4), (SaSolver(predict_x0=False, noisy=(0, 999)), 1)):
        levels = other.schedule(steps, solver=solver)
        seen = []
        x, state = other.initial(oracle.noise(), levels), other.init_state()
        for i in range(len(levels)):
            seen.append(torch.tanh(x))
            x, state = other.advance(x, seen[-1], levels, i, state, torch.zeros_like)
        torch.testing.assert_close(x, seen[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"tau_func": lambda t: 0.0}, "give the amount of noise to the solver"),
        ({"algorithm_type": "dpmsolver++"}, "'data_prediction' or 'noise_prediction'"),
        ({"predictor_order": 5}, "predictor_order"),
        ({"prediction_type": "flow_prediction"}, "needs use_flow_sigmas=True"),
    ],
)
def test_what_it_does_not_take(config, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        SASolverScheduler(**config)


@pytest.mark.parametrize("wrong", [{"tau": -1.0}, {"tau": float("nan")}, {"corrector_order": 0}])
def test_a_solver_of_no_use(wrong):
    with pytest.raises(InputError, match="must be"):
        SaSolver(**wrong)


def test_it_is_made_of_another_scheduler_and_another_of_it():
    found = SASolverScheduler.from_config(DPMSolverMultistepScheduler(use_karras_sigmas=True, **LATENT).config)
    assert found.config.algorithm_type == "data_prediction" and found.config.use_karras_sigmas
    assert DPMSolverMultistepScheduler.from_config(found.config).config.algorithm_type == "dpmsolver++"
