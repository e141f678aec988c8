"""`DDPMPipeline` against the reference pipeline, with the same tiny weights and the same noise."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import calotype
from calotype import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from calotype.errors import ComponentError, ConfigError, InputError, UnknownInput, UnusedInput

TINY = dict(  # noqa: C408
    sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip


@pytest.fixture
def reference() -> Any:
    torch.manual_seed(0)
    pipe = diffusers.DDPMPipeline(diffusers.UNet2DModel(**TINY), diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(reference: Any, tmp_path: Path) -> DDPMPipeline:
    reference.save_pretrained(tmp_path / "ddpm")
    return DDPMPipeline.from_pretrained(tmp_path / "ddpm")


def as_reference(pixels: list[torch.Tensor]) -> Any:
    return (torch.cat(pixels) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def test_ddpm_with_a_generator_equals_the_reference(reference: Any, pipe: DDPMPipeline) -> None:
    wanted = reference(3, torch.Generator().manual_seed(4), num_inference_steps=12, output_type="np").images
    found = pipe(batch_size=3, generator=torch.Generator().manual_seed(4), num_inference_steps=12, outputs=("latents",))
    assert np.abs(as_reference(found["latents"]) - wanted).max() < 1e-5


def test_ddim_from_given_noise_equals_the_reference(reference: Any, tmp_path: Path) -> None:
    # an epsilon at timestep 999 is divided by 0.006, which would show float32's rounding instead of the pipeline
    settings: dict[str, Any] = {
        "clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing",
    }  # fmt: skip
    ddim = diffusers.DDIMPipeline(reference.unet, diffusers.DDIMScheduler(**settings))
    ddim.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted = ddim(2, torch.Generator().manual_seed(1), num_inference_steps=7, output_type="np").images
    reference.save_pretrained(tmp_path / "ddpm")
    pipe = DDPMPipeline.from_pretrained(tmp_path / "ddpm", scheduler=DDIMScheduler(**settings))
    given = {"noise": list(noise.split(1))}
    found = pipe(num_images=2, num_inference_steps=7, given=given, outputs=("latents",))
    assert np.abs(as_reference(found["latents"]) - wanted).max() < 1e-5


def test_pictures_are_the_rounded_pixels(pipe: DDPMPipeline) -> None:
    result = pipe(num_inference_steps=2, seed=3, outputs=("latents", "image"))
    wanted = ((result.latents[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.array_equal(np.array(result.image), wanted.astype(np.uint8))


def test_one_step_is_finite_and_none_is_refused(pipe: DDPMPipeline) -> None:
    assert pipe(num_inference_steps=1, seed=0, outputs=("latents",)).latents.isfinite().all()
    for steps in (0, -1):
        with pytest.raises(InputError, match=f"num_inference_steps must be at least 1, got {steps}"):
            pipe(num_inference_steps=steps)


def test_image_k_depends_on_its_seed_alone(pipe: DDPMPipeline) -> None:
    together = pipe(num_images=3, num_inference_steps=4, seed=5, outputs=("latents",))["latents"]
    alone = pipe(num_inference_steps=4, seed=7, outputs=("latents",)).latents
    assert torch.allclose(together[2], alone, atol=1e-6)


def test_what_it_saves_the_reference_loads(pipe: DDPMPipeline, reference: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "ours")
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
    for name, tensor in reference.unet.state_dict().items():
        assert torch.equal(theirs.unet.state_dict()[name], tensor)
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "ours")) is DDPMPipeline


def test_the_recipe_of_a_generator_says_that_it_cannot_be_replayed(pipe: DDPMPipeline) -> None:
    by_generator = pipe(num_inference_steps=1, generator=torch.Generator().manual_seed(0))
    assert by_generator.recipe.given == ("generator",)
    assert pipe(num_inference_steps=1).recipe.given == ()


def test_wrong_calls_are_refused(pipe: DDPMPipeline, tmp_path: Path) -> None:
    with pytest.raises(UnknownInput, match="'num_inference_step' is not an input; did you mean 'num_inference_steps'"):
        pipe(num_inference_step=3)
    with pytest.raises(InputError, match="generator must be Generator"):
        pipe(generator=3)
    with pytest.raises(UnusedInput, match="num_inference_steps was given, but nothing in this call reads it"):
        pipe(num_inference_steps=3, outputs=("noise",))
    with pytest.raises(ComponentError, match=r"DDPMPipeline.unet must be UNet2DModel, got DDPMScheduler"):
        DDPMPipeline(unet=DDPMScheduler(), scheduler=UNet2DModel(**TINY))
    nameless = DDPMPipeline(unet=UNet2DModel(**{**TINY, "sample_size": None}), scheduler=DDPMScheduler())
    with pytest.raises(ConfigError, match="no sample_size"):
        nameless(num_inference_steps=1)


def test_the_model_of_faces_in_the_box_draws_yellow_discs_on_white() -> None:
    pipe = DDPMPipeline.from_pretrained("calotype/faces-32", device="cpu")
    pictures = np.stack([np.asarray(image) for image in pipe(num_images=8, seed=0, num_inference_steps=10).images])
    assert pictures.shape == (8, 32, 32, 3)
    corners = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
    middle = np.median(pictures[:, 8:24, 8:24].astype(float), axis=(1, 2))
    assert corners.mean() > 235
    assert np.median(middle[:, 0] - middle[:, 2]) > 80  # much more red than blue


def test_the_reference_draws_the_same_face_with_the_model_in_the_box() -> None:
    folder = Path(calotype.__file__).parent / "assets" / "faces-32"
    theirs = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    ours = UNet2DModel.from_pretrained(folder, subfolder="unet")
    x = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x, 500).sample, theirs(x, 500).sample, atol=1e-5, rtol=1e-5)
