"""Guidance by CLIP, beside the formulas of the published pipeline computed with the reference's networks."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from calotype import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from calotype.community.clip_guided_stable_diffusion import cutouts, whole
from calotype.errors import ComponentNotLoaded, InputError
from tiny_sd import SCHEDULER, SEED, TOLERANCE, ours, picture, reference_pipeline, tiny_clip, with_weights_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

NAME = "clip_guided_stable_diffusion"
CALL = {"prompt": "a red cat", "num_inference_steps": 4, "guidance_scale": 5.0, "clip_guidance_scale": 10.0}
DDIM = diffusers.DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=False)


def guided(folder: Path, scheduler: Any = None) -> tuple[Any, Any]:
    """The pipeline, and the reference's of the same weights without CLIP."""
    reference = reference_pipeline(diffusers.StableDiffusionPipeline, scheduler)
    reference.save_pretrained(folder)
    clip, processor = tiny_clip()
    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=NAME, clip_model=clip, feature_extractor=processor, device="cpu"
    )
    return pipe, reference


def words(reference: Any, text: str, encoder: Any) -> Tensor:
    ids = reference.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return encoder(ids)


def clip_loss(pixels: Tensor, text: Tensor, clip: Any, processor: Any) -> Tensor:
    """The squared angle between picture and words, as twice the square of the arc of half the chord."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    seen = clip.get_image_features((pixels - mean) / std).pooler_output
    chord = (seen / seen.norm(dim=-1, keepdim=True) - text / text.norm(dim=-1, keepdim=True)).norm(dim=-1)
    return 2 * torch.asin(chord / 2) ** 2


def by_hand(reference: Any, clip_prompt: str, steps: int) -> Tensor:
    """The published loop for DDIM: the guided noise, less the root of beta times the gradient of -loss."""
    clip, processor = tiny_clip()
    unet, vae, scheduler = reference.unet, reference.vae, reference.scheduler
    with torch.no_grad():
        positive, negative = (words(reference, t, reference.text_encoder)[0] for t in ("a red cat", ""))
        text = words(reference, clip_prompt, clip.get_text_features).pooler_output
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = latents.detach().requires_grad_()
        noise = unet(x, t, encoder_hidden_states=positive).sample
        kept = scheduler.alphas_cumprod[t]
        clean = (x - (1 - kept).sqrt() * noise) / kept.sqrt()
        share = (1 - kept).sqrt()
        pixels = vae.decode((clean * share + x * (1 - share)) / vae.config.scaling_factor).sample
        loss = clip_loss((pixels / 2 + 0.5).clamp(0, 1), text, clip, processor).sum() * 10
        slope = torch.autograd.grad(loss, x)[0]
        with torch.no_grad():
            other = unet(latents, t, encoder_hidden_states=negative).sample
            combined = other + 5 * (noise - other) + share * slope
            latents = scheduler.step(combined, t, latents).prev_sample
    return latents.detach()


@pytest.mark.parametrize(("clip_prompt", "use_cutouts"), [(None, False), ("re", False), (None, True)])
def test_the_loop_is_the_published_one(clip_prompt: str | None, use_cutouts: bool, tmp_path: Path) -> None:
    """Where the picture is as large as CLIP's, every window is the whole picture."""
    pipe, reference = guided(tmp_path, DDIM)
    found, _ = ours(pipe, **CALL, clip_prompt=clip_prompt, use_cutouts=use_cutouts, seed=SEED)
    wanted = by_hand(reference, clip_prompt or "a red cat", 4)
    plain, _ = ours(pipe, **{**CALL, "clip_guidance_scale": 0}, seed=SEED)
    assert float((found - wanted).abs().max()) < TOLERANCE
    assert float((found - plain).abs().max()) > 0.5, "CLIP moves the latents"


def test_off_it_is_stable_diffusion(tmp_path: Path) -> None:
    pipe, _ = guided(tmp_path, DDIM)
    plain = StableDiffusionPipeline.from_pretrained(tmp_path, device="cpu")
    call = {"prompt": "a red cat", "num_inference_steps": 3, "seed": SEED}
    assert torch.equal(ours(pipe, **call, clip_guidance_scale=0)[0], ours(plain, **call)[0])


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_picture_comes_closer_to_the_words(name: str, tmp_path: Path) -> None:
    """To what CLIP takes for the words, with every kind of scheduler."""
    fields = {name: value for name, value in SCHEDULER.items() if name != "steps_offset"}
    pipe, reference = guided(tmp_path, getattr(diffusers, name)(**fields, steps_offset=1))
    clip, processor = tiny_clip()
    text = words(reference, "a red cat", clip.get_text_features).pooler_output
    losses = []
    for scale in (0.0, 10.0):
        _, pixels = ours(pipe, **{**CALL, "clip_guidance_scale": scale, "num_inference_steps": 8}, seed=SEED)
        losses.append(float(clip_loss(pixels, text, clip, processor).detach()))
    assert losses[1] < 0.9 * losses[0], losses


def test_items_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    pipe, _ = guided(tmp_path, DDIM)
    call = {**CALL, "seed": SEED, "num_inference_steps": 2, "outputs": ("latents",)}
    both = pipe(**{**call, "prompt": ["a red cat", "re"]})["latents"]
    alone = [pipe(**{**call, "prompt": prompt}).latents for prompt in ("a red cat", "re")]
    torch.testing.assert_close(torch.cat(both), torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_as_a_pack_it_guides_other_pipelines(tmp_path: Path) -> None:
    reference = reference_pipeline(diffusers.StableDiffusionPipeline, DDIM)
    plain = with_weights_of(StableDiffusionImg2ImgPipeline, reference, tmp_path)
    clip, processor = tiny_clip()
    pipe = plain.with_units(NAME, clip_model=clip, feature_extractor=processor)
    call = {"prompt": "a red cat", "image": picture(), "num_inference_steps": 4, "strength": 0.5, "seed": SEED}
    assert not torch.allclose(ours(pipe, **call)[0], ours(plain, **call)[0], atol=0.01)


def test_windows() -> None:
    pixels = torch.arange(3 * 20 * 30, dtype=torch.float32).view(1, 3, 20, 30)
    views = cutouts(pixels, 8, 50, number=0)
    assert len(views) == 50 and {tuple(v.shape) for v in views} == {(1, 3, 8, 8)}
    assert all(torch.equal(a, b) for a, b in zip(views, cutouts(pixels, 8, 50, number=0), strict=True))
    assert not torch.equal(views[0], cutouts(pixels, 8, 1, number=1)[0])
    columns = torch.stack([v[0, 0, 0, 1] - v[0, 0, 0, 0] for v in views])  # how many pixels are in one
    assert columns.min() >= 1 and columns.max() <= 2.5 and columns.std() > 0.2
    small = cutouts(pixels, 64, 2, number=0)
    assert {tuple(v.shape) for v in small} == {(1, 3, 64, 64)}, "a picture smaller than what CLIP reads is enlarged"


def test_the_whole_picture_is_its_middle_square() -> None:
    pixels = torch.zeros(1, 3, 16, 32)
    pixels[..., 8:24] = 1
    assert torch.equal(whole(pixels, 16), torch.ones(1, 3, 16, 16))


def test_wrong_calls(tmp_path: Path) -> None:
    pipe, _ = guided(tmp_path, DDIM)
    with pytest.raises(InputError, match=r"CLIP reads 75 tokens, and the prompt has 160; give a clip_prompt="):
        pipe(prompt="red " * 160, num_inference_steps=1)
    pipe(prompt="red " * 160, clip_prompt="red", num_inference_steps=1, guidance_scale=1.0)
    pipe(prompt="red", negative_prompt="red " * 160, num_inference_steps=1)  # which CLIP does not look for
    with pytest.raises(InputError, match="num_cutouts must be at least 1"):
        pipe(prompt="red", num_cutouts=0)
    pipe.clip_model = None
    with pytest.raises(ComponentNotLoaded, match="clip_model"):
        pipe(prompt="red", num_inference_steps=1)
