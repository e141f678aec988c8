"""From a picture and within a mask, beside the reference's; sizes, long prompts and single steps."""

import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from calotype import (
    APG,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEuler,
    QwenImagePipeline,
)
from calotype.errors import ComponentError, InputError
from calotype.nn.patches import patched
from calotype.pipelines.qwen_image.layered import layer_size
from tiny_qwen import SCHEDULER, SEED, TOLERANCE, parts, picture, quiet, tiny_vae, with_weights_of

SIZE = {"height": 48, "width": 64}
WORDS = {"prompt": "a red cat", "negative_prompt": "blue", "true_cfg_scale": 3.0, **SIZE}
NOISE = (1, 4, 6, 8)


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    """Of a reference whose encoder is sure of its latents: it draws them, where ours takes their mean."""
    vae = tiny_vae()
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -60.0
    return parts(vae=vae)


@pytest.fixture(scope="module")
def pipe(components: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_weights_of(QwenImagePipeline, components, tmp_path_factory.mktemp("qwen"))


def later_noise() -> torch.Tensor:
    """What the reference draws after the latents of the picture."""
    generator = torch.Generator().manual_seed(SEED)
    torch.randn(NOISE, generator=generator)
    return torch.randn(NOISE, generator=generator)


def left_half() -> Image.Image:
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[:, :32] = 255
    return Image.fromarray(mask)


@pytest.mark.parametrize("mask", [None, left_half()], ids=["whole", "masked"])
def test_from_a_picture(mask: Image.Image | None, components: dict[str, Any], pipe: Any) -> None:
    kind = diffusers.QwenImageImg2ImgPipeline if mask is None else diffusers.QwenImageInpaintPipeline
    masked = {} if mask is None else {"mask_image": mask}
    wanted = quiet(kind(**components))(
        **WORDS, **masked, image=picture(), strength=0.5, num_inference_steps=4, output_type="latent",
        generator=torch.Generator().manual_seed(SEED),
    ).images  # fmt: skip
    levels = pipe.scheduler.schedule(sigmas=(1.0, 0.75, 0.5, 0.25), image_tokens=12)[2:]  # where its strength begins
    found = pipe(
        **WORDS, **masked, image=picture(), outputs=["latents"],
        given={"noise": later_noise(), "sigmas": levels},
    ).latents  # fmt: skip
    assert torch.allclose(patched(found).tokens, wanted, atol=TOLERANCE)


def test_what_a_mask_keeps_is_the_picture_itself(pipe: Any) -> None:
    made = pipe(**WORDS, image=picture(), mask_image=left_half(), num_inference_steps=2, seed=1).image
    known, found = np.asarray(picture()), np.asarray(made)
    assert np.array_equal(found[:, 32:], known[:, 32:])
    assert not np.array_equal(found[:, :32], known[:, :32])


def test_a_masks_edge_is_blended(pipe: Any) -> None:
    call = {**WORDS, "image": picture(), "mask_image": left_half(), "num_inference_steps": 2, "seed": 1}
    sharp, soft = (
        pipe(**call, mask_blur=blur, outputs=["mask_latents", "latents"]).mask_latents[0, 0, 3] for blur in (0, 6.0)
    )
    assert sharp.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert bool((soft.diff() <= 0).all()) and 0.5 < float(soft[3]) < 1 and 0 < float(soft[4]) < 0.5
    with pytest.raises(InputError, match="the mask must be as large as image, 64x48, got 32x48"):
        pipe(**{**call, "mask_image": left_half().resize((32, 48)), "mask_blur": 2.0})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"height": 50}, "height.*50.*nearest.*48"),
        ({"image": picture(60, 48), "height": None, "width": None}, "60 pixels in width.*give width=64"),
        ({"guidance_scale": 3.0}, "say the same thing"),
        ({"true_cfg_scale": 4.0, "guidance": APG(3.0), "guidance_norm": False}, "guidance_norm has no effect"),
        ({"attention_kernel": "spda"}, "sdpa"),
        ({"attention_kernel": "flash"}, 'needs the package flash-attn: pip install "flash-attn"'),
        ({"attention_kernel": "sage"}, "needs the package sageattention"),
    ],
    ids=["asked for", "of a picture", "scale twice", "norm of a policy", "kernel", "flash", "sage"],
)
def test_what_cannot_be_drawn_is_refused(given: dict[str, Any], says: str, pipe: Any) -> None:
    with pytest.raises(InputError, match=f"(?s){says}"):
        pipe(**{**WORDS, **given}, num_inference_steps=1)


def test_a_kernel_that_is_not_installed_is_told_before_anything_is_computed(pipe: Any) -> None:
    with pytest.raises(InputError, match="attention backend 'sage' needs the package sageattention"):
        pipe.plan(**WORDS, num_inference_steps=1, attention_kernel="sage")


def test_no_layers_of_a_picture_without_pixels() -> None:
    with pytest.raises(InputError, match="must have pixels, got 0x4"):
        layer_size(Image.new("RGB", (0, 4)), 640)


def test_one_step_is_finite_and_whole(pipe: Any) -> None:
    for scheduler in (FlowMatchEuler(**SCHEDULER), FlowMatchEuler(**{**SCHEDULER, "shift_terminal": None})):
        levels = pipe(**WORDS, num_inference_steps=1, outputs=["sigmas", "latents"]).sigmas
        assert levels.sigmas == (1.0, 0.0)
        pipe.scheduler = scheduler
    latents = pipe(**WORDS, num_inference_steps=1, outputs=["latents"]).latents
    assert bool(latents.isfinite().all())


def test_the_shift_is_of_what_is_drawn(pipe: Any) -> None:
    call = {**WORDS, "num_inference_steps": 4, "outputs": ["sigmas", "latents"]}
    small, large = pipe(**call).sigmas, pipe(**{**call, "height": 256, "width": 256}).sigmas
    assert small == pipe.scheduler.schedule(sigmas=(1.0, 0.75, 0.5, 0.25), image_tokens=12)
    assert large.sigmas[1] > small.sigmas[1]


@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_where_a_picture_starts_does_not_depend_on_the_steps(strength: float, pipe: Any) -> None:
    call = {
        "prompt": "cat",
        "guidance_scale": 1.0,
        **SIZE,
        "image": picture(),
        "strength": strength,
        "outputs": ["sigmas", "latents"],
    }
    first = [pipe(**call, num_inference_steps=n).sigmas.sigmas[0] for n in (1, 2, 9)]
    assert first[0] == pytest.approx(first[1]) == pytest.approx(first[2])


def test_a_prompt_longer_than_those_of_training_warns_once(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "calotype"):
        pipe(**{**WORDS, "prompt": "cat" * 400}, num_inference_steps=3)
    (record,) = caplog.records
    assert "more than the 1024 of training" in record.message


def test_prompts_of_several_lengths_make_one_batch(pipe: Any) -> None:
    call = {**WORDS, "num_inference_steps": 2, "outputs": ["latents"], "seed": 5}
    both = pipe(**{**call, "prompt": ["a red cat", "a very small blue dog"]})["latents"]
    alone = [
        pipe(**{**call, "prompt": prompt, "seed": seed}).latents
        for prompt, seed in (("a red cat", 5), ("a very small blue dog", 5))
    ]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(both, alone, strict=True))


def test_it_is_saved_and_loaded(components: dict[str, Any], pipe: Any, tmp_path: Path) -> None:
    call = {**WORDS, "num_inference_steps": 1, "outputs": ["latents"], "seed": 5}
    components["text_encoder"].save_pretrained(tmp_path / "theirs" / "text_encoder")
    quiet(diffusers.QwenImagePipeline(**components)).save_pretrained(tmp_path / "theirs")
    loaded = QwenImagePipeline.from_pretrained(tmp_path / "theirs", device="cpu")
    assert torch.equal(loaded(**call).latents, pipe(**call).latents)
    loaded.save_pretrained(tmp_path / "ours")
    again = diffusers.QwenImagePipeline.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.vae.encoder.conv_in.weight, components["vae"].encoder.conv_in.weight)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_a_scheduler_that_takes_velocity_for_noise_is_refused(kind: Any, pipe: Any) -> None:
    other = type(pipe)(**{**pipe.components, "scheduler": kind()}, device="cpu")
    with pytest.raises(ComponentError, match=rf"{kind.__name__} as it is set up reads Epsilon; set pipe.scheduler = "):
        other(**WORDS, num_inference_steps=2)


def test_other_solvers_of_flow_draw(pipe: Any) -> None:
    solver = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    found = type(pipe)(**{**pipe.components, "scheduler": solver}, device="cpu")(
        **WORDS, num_inference_steps=3, outputs=["pixels"]
    ).pixels
    assert torch.isfinite(found).all()


def test_an_autoencoder_of_another_transformer_is_named(pipe: Any) -> None:
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=8, num_res_blocks=1, latents_mean=(0.0,) * 8, latents_std=(1.0,) * 8
    ).eval()
    other = type(pipe)(**{**pipe.components, "vae": vae}, device="cpu")
    with pytest.raises(ComponentError, match="2x2 of its latents have 32 numbers, and a token of this one has 16"):
        other(**WORDS, num_inference_steps=2)
