"""Edits within a mask and from a picture, beside the reference's pipeline, and what of the picture stays."""

import importlib
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from calotype import QwenImageEditInpaintPipeline, QwenImageEditPipeline, QwenImageEditPlusPipeline
from calotype.errors import InputError, MissingInput
from calotype.nn.patches import patched
from calotype.pipelines.qwen_image import editing
from tiny_qwen import (
    SEED,
    TOLERANCE,
    Processor,
    Told,
    parts,
    picture,
    quiet,
    tiny_transformer,
    tiny_vae,
    with_weights_of,
)

CALL = {"prompt": "a red cat", "negative_prompt": "blue", "true_cfg_scale": 3.0}
SIDE = 64
NOISE = (1, 4, 8, 8)


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides look at fewer pixels, so that tests are fast."""
    module = importlib.import_module("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint")
    monkeypatch.setattr(editing, "DRAWN_AREA", SIDE**2)
    monkeypatch.setattr(editing, "SEEN_AREA", SIDE**2)
    original = module.calculate_dimensions
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: original(SIDE**2, ratio))


@pytest.fixture(scope="module", params=[False, True], ids=["edit", "2511"])
def components(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a reference whose encoder is sure of its latents: it draws them, where ours takes their mean."""
    vae = tiny_vae()
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -60.0
    made = parts(vae=vae, transformer=tiny_transformer(zero_cond_t=request.param))
    made["text_encoder"].__class__ = Told
    return {**made, "processor": Processor(made["tokenizer"])}


def ours(kind: Any, components: dict[str, Any], folder: Path) -> Any:
    return with_weights_of(kind, components, folder, processor=components["processor"].image_processor)


def left_half(width: int = SIDE, height: int = SIDE) -> Image.Image:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : width // 2] = 255
    return Image.fromarray(mask)


def test_an_edit_within_a_mask(components: dict[str, Any], tmp_path: Path) -> None:
    reference = quiet(diffusers.QwenImageEditInpaintPipeline(**components))
    pipe = ours(QwenImageEditInpaintPipeline, components, tmp_path)
    image, mask = picture(SIDE, SIDE), left_half()
    wanted = reference(
        **CALL, image=image, mask_image=mask, strength=0.5, num_inference_steps=4, output_type="latent",
        generator=torch.Generator().manual_seed(SEED),
    ).images  # fmt: skip
    generator = torch.Generator().manual_seed(SEED)
    torch.randn(NOISE, generator=generator)  # with which the reference draws the latents of the picture
    levels = pipe.scheduler.schedule(sigmas=(1.0, 0.75, 0.5, 0.25), image_tokens=16)[2:]  # where its strength begins
    found = pipe(
        **CALL, image=image, mask_image=mask, outputs=["latents"],
        given={"noise": torch.randn(NOISE, generator=generator), "sigmas": levels},
    ).latents  # fmt: skip
    assert torch.allclose(patched(found).tokens, wanted, atol=TOLERANCE)


def test_what_the_mask_keeps_is_the_picture_itself(components: dict[str, Any], tmp_path: Path) -> None:
    one = ours(QwenImageEditPipeline, components, tmp_path / "one")
    several = ours(QwenImageEditPlusPipeline, components, tmp_path / "several")
    image, other = picture(SIDE, SIDE), picture(SIDE, SIDE, seed=1)
    masked = {**CALL, "mask_image": left_half(), "num_inference_steps": 2, "seed": 1}
    for made in (one(**masked, image=image), several(**masked, images=[other, image], strength=0.8)):
        known, found = np.asarray(image), np.asarray(made.image)
        assert np.array_equal(found[:, 32:], known[:, 32:])
        assert not np.array_equal(found[:, :32], known[:, :32])


def test_an_edit_may_start_from_the_picture(components: dict[str, Any], tmp_path: Path) -> None:
    pipe = ours(QwenImageEditPipeline, components, tmp_path)
    call = {**CALL, "image": picture(SIDE, SIDE), "num_inference_steps": 3, "seed": 1, "outputs": ["sigmas", "latents"]}
    whole, part = pipe(**call), pipe(**call, strength=0.4)
    assert part.sigmas.sigmas[0] < whole.sigmas.sigmas[0] == 1
    assert not torch.allclose(whole.latents, part.latents, atol=0.01)
    larger = pipe(**call, strength=0.4, height=96, width=64).latents
    assert larger.shape == (1, 4, 12, 8) and bool(larger.isfinite().all())


def test_what_does_not_fit_is_refused(components: dict[str, Any], tmp_path: Path) -> None:
    pipe = ours(QwenImageEditInpaintPipeline, components, tmp_path)
    call = {**CALL, "image": picture(SIDE, SIDE), "num_inference_steps": 1}
    with pytest.raises(MissingInput, match="mask_image"):
        pipe(**call)
    with pytest.raises(InputError, match="the mask must be as large as image, 64x64, got 32x48"):
        pipe(**call, mask_image=left_half(32, 48))


def test_pictures_of_other_proportions_make_no_batch(components: dict[str, Any], tmp_path: Path) -> None:
    pipe = ours(QwenImageEditPipeline, components, tmp_path)
    images = [picture(SIDE, SIDE), picture(128, 32)]
    with pytest.raises(InputError, match=r"latents has the shapes .* use equal sizes, or call the pipeline once"):
        pipe(**{**CALL, "prompt": ["one", "two"]}, image=images, num_inference_steps=1)
