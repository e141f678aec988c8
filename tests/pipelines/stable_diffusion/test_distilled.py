"""Networks that are told their guidance scale, beside the reference's pipelines of the same weights and noise."""

from typing import Any

import diffusers
import pytest
import torch

from calotype import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from calotype.errors import ConfigError, InputError
from calotype.pipelines.stable_diffusion import distilled_guidance
from calotype.pipelines.stable_diffusion.distilled import guidance_waves
from calotype.pipelines.stable_diffusion.steering import UNetSteering
from tiny_sd import SEED, assert_equal, ours, reference_pipeline, reference_xl, theirs, with_weights_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's
STEPS = {"prompt": "a red cat", "num_inference_steps": 4}


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def both(kind: Any, folder: Any) -> tuple[Any, Any]:
    """The reference and ours, each with a network that is told its scale."""
    xl = kind is StableDiffusionXLPipeline
    make, cls = (reference_xl, diffusers.StableDiffusionXLPipeline) if xl else (
        reference_pipeline, diffusers.StableDiffusionPipeline)  # fmt: skip
    reference = make(cls, unet={"time_cond_proj_dim": 12})
    return reference, with_weights_of(kind, reference, folder)


@pytest.mark.parametrize("kind", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_the_scale_that_the_network_is_told_is_the_references(kind, tmp_path):
    reference, pipe = both(kind, tmp_path)
    wider = pipe.with_units(distilled_guidance())
    found = {}
    for scale in (8.0, 2.0):
        wanted = theirs(reference, guidance_scale=scale, **STEPS)
        found[scale] = ours(wider, guidance_scale=1.0, distilled_guidance_scale=scale, generator=drawn(), **STEPS)
        assert_equal(found[scale], wanted)
    assert float((found[8.0][0] - found[2.0][0]).abs().max()) > 1e-2


def test_with_the_consistency_solver_in_one_forward_a_step(tmp_path):
    _, pipe = both(StableDiffusionPipeline, tmp_path)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    wider, batches = pipe.with_units(distilled_guidance()), []
    handle = wider.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    assert wider(guidance_scale=1.0, seed=1, **STEPS).image.size == (16, 16)
    assert batches == [1] * 4
    handle.remove()


def test_the_waves():
    class Network:
        class config:
            time_cond_proj_dim = 256

        device = "cpu"

    found = guidance_waves(7.5, unet=Network())
    wanted = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding(None, torch.tensor([6.5]), 256)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)  # angles of up to 6500 in single precision


def test_what_is_refused(tmp_path):
    _, pipe = both(StableDiffusionPipeline, tmp_path)
    wider = pipe.with_units(distilled_guidance())
    with pytest.raises(InputError, match="guided by both; give guidance_scale=1"):
        wider(distilled_guidance_scale=8.0, **STEPS)
    plain = with_weights_of(StableDiffusionPipeline, reference_pipeline(diffusers.StableDiffusionPipeline),
                            tmp_path / "plain")  # fmt: skip
    with pytest.raises(ConfigError, match="has no time_cond_proj_dim"):
        plain.with_units(distilled_guidance())(guidance_scale=1.0, **STEPS)
    with pytest.raises(InputError, match=r"is told the scale .*; insert the pack .*distilled_guidance\(\)"):
        pipe(**STEPS)
    with pytest.raises(InputError, match="one guidance scale"):
        UNetSteering(condition=torch.ones(1, 2)) + UNetSteering(condition=torch.ones(1, 2))
