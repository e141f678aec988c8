"""What a call of Stable Diffusion takes, refuses, remembers and shows, on random weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from PIL import Image

from calotype import (
    AutoencoderTiny,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from calotype.errors import ConfigError, InputError, MissingInput, UnusedInput
from calotype.nn.tiling import decode_tiled, encode_tiled
from calotype.pipelines.pictures import to_array, to_picture
from calotype.pipelines.stable_diffusion.sdxl_units import handed_over
from tiny_sd import left_half, picture, reference_pipeline, reference_xl

STEPS = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    reference_pipeline(diffusers.StableDiffusionPipeline).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return DiffusionPipeline.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("sdxl")
    reference_xl(diffusers.StableDiffusionXLPipeline).save_pretrained(path)
    return DiffusionPipeline.from_pretrained(path, device="cpu")


@pytest.fixture
def counted(pipe: Any) -> Iterator[dict[str, int]]:
    """How often the encoders and the decoder run."""
    calls = {"text": 0, "encode": 0, "decode": 0}

    vae, text = type(pipe.vae), type(pipe.text_encoder)
    with (
        patch.object(text, "forward", counting_method(calls, "text", text.forward)),
        patch.object(vae, "encode", counting_method(calls, "encode", vae.encode)),
        patch.object(vae, "decode", counting_method(calls, "decode", vae.decode)),
    ):
        yield calls


def counting_method(calls: dict[str, int], name: str, method: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return method(self, *args, **kwargs)

    return call


def latents(pipe: Any, **inputs: Any) -> torch.Tensor:
    return pipe(**{"prompt": "a red cat", "seed": 1, **STEPS, **inputs}, outputs=("latents",)).latents


def test_the_index_names_our_class(pipe: Any, xl: Any) -> None:
    assert type(pipe) is StableDiffusionPipeline and type(xl) is StableDiffusionXLPipeline


def test_an_image_is_made_at_the_networks_own_size(pipe: Any) -> None:
    made = pipe(prompt="a red cat", seed=0, **STEPS)
    assert isinstance(made.image, Image.Image) and made.image.size == (16, 16)


def test_a_second_call_encodes_nothing(folder: Path, counted: dict[str, int]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder, device="cpu")  # that was never called
    inputs = {"prompt": "one more cat", "negative_prompt": "dog", "image": picture(seed=9), **STEPS}
    pipe(**inputs, seed=1)
    assert counted == {"text": 2, "encode": 1, "decode": 1}
    pipe(**inputs, seed=2)
    assert counted == {"text": 2, "encode": 1, "decode": 2}


def test_image_k_is_the_picture_of_its_seed(pipe: Any) -> None:
    made = pipe(prompt=["a red cat", "red"], num_images=2, seed=3, **STEPS, outputs=("latents",))["latents"]
    assert len(made) == 4
    assert torch.allclose(made[3], latents(pipe, prompt="red", seed=4), atol=1e-4)
    same = pipe(prompt=["a red cat", "red"], num_images_per_prompt=2, seed=3, **STEPS, outputs=("latents",))["latents"]
    assert all(torch.equal(a, b) for a, b in zip(made, same, strict=True))


def test_prompts_of_unequal_length_share_a_batch_and_change_nothing(pipe: Any) -> None:
    prompts = ["cat " * 100, "a red cat"]
    together = pipe(prompt=prompts, negative_prompt="", seed=3, **STEPS, outputs=("latents",))["latents"]
    for prompt, found in zip(prompts, together, strict=True):
        assert torch.allclose(found, latents(pipe, prompt=prompt, seed=3), atol=1e-4)
    short = latents(pipe, prompt="cat " * 75, seed=3)
    assert (latents(pipe, prompt=prompts[0], seed=3) - short).abs().max() > 1e-3


def test_weights_and_skipped_layers_change_the_picture(pipe: Any) -> None:
    plain = latents(pipe)
    assert not torch.allclose(plain, latents(pipe, prompt="a (red:1.6) cat"), atol=1e-3)
    assert not torch.allclose(plain, latents(pipe, clip_skip=1), atol=1e-3)
    assert torch.equal(plain, latents(pipe, prompt_syntax="plain"))


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_strength_alone_sets_the_first_level(pipe: Any, steps: int) -> None:
    levels = pipe(image=picture(), strength=0.6, num_inference_steps=steps, outputs=("sigmas",)).sigmas
    assert len(levels) == steps and levels.timesteps[0] == 599


def test_a_picture_of_another_size_is_scaled_and_cropped_where_a_size_is_given(pipe: Any) -> None:
    assert pipe(prompt="cat", image=picture((24, 16)), seed=0, **STEPS).image.size == (24, 16)
    assert pipe(prompt="cat", image=picture((30, 17)), height=16, width=32, seed=0, **STEPS).image.size == (32, 16)
    assert pipe(prompt="cat", image=picture((30, 16)), width=32, seed=0, **STEPS).image.size == (32, 16)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"height": 100}, InputError, "height must be a multiple of 8, got 100; nearest is 96 and 104"),
        ({"image": picture((31, 16))}, InputError, "31 pixels in width, which is no multiple of 2; give width=32"),
        ({"image": Image.new("RGB", (0, 16))}, InputError, "image: must have pixels, got 0x16"),
        ({"image": picture(), "mask_image": left_half((8, 8))}, InputError, "as large as image, 16x16, got 8x8"),
        ({"mask_image": left_half()}, UnusedInput, "mask_image was given, but nothing in this call reads it"),
        ({"strength": 0.5}, UnusedInput, "strength was given, but nothing in this call reads it"),
        ({"guidance_scale": 1.0, "negative_prompt": "x"}, UnusedInput, "guidance is off"),
        ({"guidance_scale": 1.0, "guidance_rescale": 0.5}, UnusedInput, "no effect with guidance_scale=1"),
        ({"prompt": "a (red cat"}, InputError, "is never closed"),
        ({"clip_skip": 3}, InputError, "leaves out 3 of the text encoder's 3 layers"),
        ({"prompt_syntax": "weights"}, InputError, "prompt_syntax must be one of 'weighted', 'plain'"),
        ({"vae_tile": 60}, InputError, "vae_tile must be"),
        ({"seed": 1, "generator": torch.Generator()}, InputError, "generator and seed say the same thing"),
        ({"num_images": 2, "num_images_per_prompt": 2}, InputError, "say the same thing; give one of them"),
        ({"steps": 3}, InputError, "'steps' is not an input"),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused(pipe: Any, inputs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pipe(**{"prompt": "cat", **STEPS, **inputs})


def test_what_a_class_is_for_is_required(pipe: Any) -> None:
    for cls, missing in (
        (StableDiffusionImg2ImgPipeline, "image"),
        (StableDiffusionInpaintPipeline, "mask_image"),
        (StableDiffusionInstructPix2PixPipeline, "image"),
    ):
        with pytest.raises(MissingInput, match=f"'{missing}' is missing"):
            cls(**pipe.components)(prompt="cat", **STEPS)


def test_networks_of_another_kind_are_refused(tmp_path: Path, folder: Path, pipe: Any, xl: Any) -> None:
    reference_pipeline(diffusers.StableDiffusionInpaintPipeline, unet={"in_channels": 9}).save_pretrained(tmp_path)
    inpainting = StableDiffusionPipeline.from_pretrained(tmp_path, device="cpu")
    with pytest.raises(InputError, match="was trained to inpaint; give image and mask_image"):
        inpainting(prompt="cat", **STEPS)
    torch.manual_seed(0)
    editing = StableDiffusionPipeline.from_pretrained(folder, device="cpu")
    editing.unet = type(pipe.unet)(**{**pipe.unet.config.model_dump(), "in_channels": 8})
    with pytest.raises(InputError, match=r"sees 4 channels beside the latents.*StableDiffusionInstructPix2PixPipeline"):
        editing(prompt="cat", **STEPS)
    wrong = StableDiffusionXLPipeline(**{**xl.components, "unet": pipe.unet})
    with pytest.raises(ConfigError, match="not one of Stable Diffusion XL; StableDiffusionPipeline is for those"):
        wrong(prompt="cat", **STEPS)
    with pytest.raises(UnusedInput, match="aesthetic_score was given, but this network is told none"):
        xl(prompt="cat", aesthetic_score=7.0, **STEPS)


def test_half_precision_computes_the_same_picture_roughly(folder: Path, pipe: Any) -> None:
    half = StableDiffusionPipeline.from_pretrained(folder, dtype="bfloat16", device="cpu")
    found, wanted = (latents(each, guidance_scale=1.0) for each in (half, pipe))
    assert half.unet.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


@torch.no_grad()
def test_tiles_are_encoded_and_decoded_one_by_one(pipe: Any) -> None:
    inputs = {"prompt": "cat", "image": picture((96, 64)), "strength": 0.2, "seed": 0, **STEPS}
    made = pipe(**inputs, vae_tile=64, outputs=("image_latents", "latents", "pixels"))
    sizes = {"downscale": 2, "tile": 32, "overlap": 8}
    scale = pipe.vae.config.scaling_factor
    encoded = encode_tiled(lambda x: pipe.vae.encode(x).latent_dist.mode(), to_array(picture((96, 64))), **sizes)
    assert torch.allclose(made.image_latents, encoded * scale, atol=1e-6)
    decoded = decode_tiled(lambda z: pipe.vae.decode(z).sample, made.latents / scale, **sizes)
    assert torch.allclose(made.pixels, decoded, atol=1e-5)
    assert not torch.allclose(made.image_latents, pipe(**inputs, outputs=("image_latents", "latents")).image_latents)


def test_a_stream_previews_the_picture(pipe: Any) -> None:
    with pipe.stream(prompt="cat", seed=0, **STEPS) as stream:
        previews = [event.preview()["image"] for event in stream]
    assert [preview.size for preview in previews] == [(16, 16)] * 2


def test_a_tiny_autoencoder_takes_the_place_of_the_full_one(folder: Path) -> None:
    torch.manual_seed(0)
    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                           num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    pipe = StableDiffusionPipeline.from_pretrained(folder, vae=tiny.eval(), device="cpu")
    assert pipe(prompt="cat", image=picture(), seed=0, **STEPS).image.size == (16, 16)


def test_a_running_call_is_shown_through_the_tiny_autoencoder(folder: Path, pipe: Any) -> None:
    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                           num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()  # fmt: skip
    small = StableDiffusionPipeline.from_pretrained(folder, vae=tiny, device="cpu")
    call = {"prompt": "cat", "height": 16, "width": 16, "seed": 0, **STEPS}
    with torch.no_grad():
        shown = [to_picture(tiny.decode(event.denoised[:1]).sample) for event in pipe.stream(**call)]
    wanted = [event.preview()["image"] for event in small.stream(**call)]
    assert len(shown) == 2 and [p.tobytes() for p in shown] == [p.tobytes() for p in wanted]
    assert shown[-1].tobytes() != pipe(**call).image.tobytes()  # which the full autoencoder decodes


def test_a_budget_that_one_network_fits_in_is_enough(folder: Path, pipe: Any) -> None:
    roomy = StableDiffusionPipeline.from_pretrained(folder, memory="1GiB", device="cpu")
    plan = roomy.plan(prompt="cat", outputs=["latents"])
    assert plan.computed is not None
    budget = max(plan.sizes.values()) + max(plan.computed)
    assert budget < sum(plan.sizes.values()) + max(plan.computed)
    small = StableDiffusionPipeline.from_pretrained(folder, memory=budget, device="cpu")
    assert torch.equal(latents(small), latents(pipe))


def test_one_pipeline_serves_several_threads(xl: Any) -> None:
    prompts = [f"a red cat {number}" for number in range(8)]

    def drawn(prompt: str) -> torch.Tensor:
        return latents(fresh, prompt=prompt)

    fresh = StableDiffusionXLPipeline(**xl.components, memo=0, device="cpu")
    alone = [drawn(prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(drawn, prompts))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_plan_predicts_the_peak_of_memory(pipe: Any, xl: Any) -> None:
    masked = xl.plan(prompt="cat", image=picture(), mask_image=left_half(), **STEPS)
    assert masked.predicted_peak > sum(masked.sizes.values())
    large = pipe.plan(prompt="cat", height=128, width=128, **STEPS)
    map_of_the_autoencoder = 8 * 128 * 128 * 4
    assert large.predicted_peak > sum(large.sizes.values()) + map_of_the_autoencoder


def test_training_the_network_caches_both_encoders() -> None:
    split = StableDiffusionPipeline.split(["unet"])
    assert {"size", "prompt_embeds", "image_latents", "masks", "beside_latents"} <= set(split.cached)
    assert "text_encoder" not in split.components


def test_parts_of_a_schedule_are_refused_where_they_are_empty(xl: Any) -> None:
    with pytest.raises(InputError, match=r"denoising_start must be less than denoising_end, got 0\.8 and 0\.2"):
        xl(prompt="cat", denoising_start=0.8, denoising_end=0.2, **STEPS)
    with pytest.raises(InputError, match="none of the 2 steps lies in this part of the schedule; take more steps"):
        xl(prompt="cat", denoising_end=0.3, **STEPS)  # whose steps begin at the timesteps 501 and 1
    with pytest.raises(InputError, match="none of the 1 steps lies in this part"):
        handed_over(xl.scheduler.schedule(1), 0.8, scheduler=xl.scheduler)
    with pytest.raises(InputError, match="denoising_start continues what another network began; give image"):
        xl(prompt="cat", denoising_start=0.5, **STEPS)


def test_it_loads_what_it_saves_and_so_does_the_reference(xl: Any, tmp_path: Path) -> None:
    xl.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(latents(again), latents(xl))
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path)
    assert theirs.config.force_zeros_for_empty_prompt is True
