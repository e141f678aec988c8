"""DDIM with a share of its noise renewed, beside the reference's pipeline of the same weights and noise."""

import diffusers
import pytest
import torch

from calotype import DDIMScheduler, StableDiffusionPipeline
from calotype.sampling.solver import Ddim
from tiny_sd import SCHEDULER, SEED, assert_equal, ours, reference_pipeline, theirs, with_weights_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's


def test_levels_of_another_solver_are_the_references_eta(tmp_path):
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    fields = {**SCHEDULER, "clip_sample": False, "set_alpha_to_one": False}
    reference.scheduler = diffusers.DDIMScheduler(**fields)
    pipe = with_weights_of(StableDiffusionPipeline, reference, tmp_path)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    found = []
    for eta in (0.0, 0.7):
        wanted = theirs(reference, prompt="a red cat", num_inference_steps=4, eta=eta)
        levels = pipe.scheduler.schedule(4, solver=Ddim(eta=eta))
        found.append(ours(pipe, prompt="a red cat", given={"sigmas": levels},
                          generator=torch.Generator().manual_seed(SEED)))  # fmt: skip
        assert_equal(found[-1], wanted)
    assert float((found[0][0] - found[1][0]).abs().max()) > 0.05
