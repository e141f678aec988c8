"""Schedules that begin with noise alone, as those of flow matching do, with any solver."""

import pytest
import torch

from calotype import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from calotype.errors import InputError
from calotype.sampling.solvers.deis import Deis
from calotype.sampling.solvers.dpm_multistep import DpmMultistep
from calotype.sampling.solvers.dpm_sde import DpmSde
from calotype.sampling.solvers.lms import Lms
from calotype.sampling.solvers.sa import SaSolver
from calotype.sampling.solvers.unipc import UniPc

SCHEDULERS = {
    "flow": FlowMatchEulerDiscreteScheduler(),
    "diffusion": DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="sample", timestep_spacing="trailing", clip_sample=False
    ),
}


@pytest.mark.parametrize("solver", [DpmMultistep(), DpmMultistep(algorithm="dpmsolver++", order=3), UniPc()])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_network_that_knows_the_picture_leads_to_it(kind, solver):
    scheduler, picture = SCHEDULERS[kind], torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    levels = scheduler.schedule(5, solver=solver)
    assert levels.here[0].alpha == 0.0
    x, state = scheduler.initial(torch.ones_like(picture), levels), scheduler.init_state()
    for i in range(len(levels)):
        output = (x - picture) / levels.here[i].sigma if kind == "flow" else picture
        x, state = scheduler.advance(x, output, levels, i, state)
    torch.testing.assert_close(x, picture, rtol=0, atol=2e-6)


@pytest.mark.parametrize("solver", [Deis(), Lms(), SaSolver(), SaSolver(predict_x0=False), DpmSde()])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_polynomial_goes_through_no_noise_alone(kind, solver):
    scheduler, x = SCHEDULERS[kind], torch.ones(1, 1, 4, 4)
    with pytest.raises(InputError, match=r"cannot begin with noise alone, .*; take DpmMultistep or UniPc"):
        levels = scheduler.schedule(5, solver=solver)
        scheduler.advance(x, x, levels, 0, scheduler.init_state(), torch.ones_like)
