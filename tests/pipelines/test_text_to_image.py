"""The pipeline of the model in the box, on that model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import calotype
from calotype import Branches, DiffusionPipeline, TextToImagePipeline
from calotype.errors import InputError, UnusedInput
from calotype.pipelines.latents import shrink_mask
from calotype.pipelines.pictures import to_array
from calotype.pipelines.text_to_image.units import fitted, image_latents, masks, noise, prompt_embeds

MODEL = "calotype/emoji-64"


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    loaded = DiffusionPipeline.from_pretrained(MODEL, device="cpu")
    assert isinstance(loaded, TextToImagePipeline)
    return loaded


@pytest.fixture(scope="module")
def apple(pipe: TextToImagePipeline) -> Image.Image:
    picture: Image.Image = pipe(prompt="a red apple", seed=7, steps=8).image
    return picture


def latents_of(pipe: TextToImagePipeline, **inputs: Any) -> torch.Tensor:
    latents: torch.Tensor = pipe(
        **{"prompt": "a red apple", "seed": 7, "steps": 4, **inputs}, outputs=("latents",)
    ).latents
    return latents


def test_words_decide_what_is_drawn(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    red, green, blue = np.asarray(apple, dtype=float).reshape(-1, 3).mean(0)
    assert apple.size == (64, 64) and red > green and red > blue
    sea = np.asarray(pipe(prompt="a blue car", seed=7, steps=8).image, dtype=float).reshape(-1, 3).mean(0)
    assert sea[2] > sea[0]


def test_the_negative_prompt_counts_and_costs_a_branch(pipe: TextToImagePipeline) -> None:
    assert [b.name for b in pipe.plan(prompt="a red apple").branches] == ["positive", "negative"]
    assert not torch.equal(latents_of(pipe), latents_of(pipe, negative_prompt="a green leaf"))
    assert [b.name for b in pipe.plan(prompt="a red apple", guidance_scale=1.0).branches] == ["positive"]
    with pytest.raises(UnusedInput, match="negative_prompt was given, but guidance is off"):
        pipe(prompt="a red apple", guidance_scale=1.0, negative_prompt="green")


def test_guidance_options_change_the_picture(pipe: TextToImagePipeline) -> None:
    plain = latents_of(pipe)
    assert not torch.equal(plain, latents_of(pipe, guidance_rescale=0.7))
    assert not torch.equal(plain, latents_of(pipe, guidance_interval=(0.2, 0.8)))
    assert torch.equal(plain, latents_of(pipe, guidance_interval=(0.0, 1.0)))
    with pytest.raises(InputError, match="guidance interval must be two increasing numbers"):
        pipe(prompt="a red apple", guidance_interval=(0.8, 0.2))


def test_image_k_is_the_picture_of_its_seed(pipe: TextToImagePipeline) -> None:
    together = pipe(prompt=["a red apple", "a cat"], num_images=2, seed=3, steps=4, outputs=("latents",))["latents"]
    assert len(together) == 4
    alone = pipe(prompt="a cat", seed=4, steps=4, outputs=("latents",)).latents
    assert torch.allclose(together[3], alone, atol=1e-4)


def test_strength_sets_the_first_level_whatever_the_steps(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    firsts = {
        steps: pipe(image=apple, strength=0.4, steps=steps, outputs=("sigmas",)).sigmas.sigmas[0]
        for steps in (1, 3, 24)
    }
    assert len(set(firsts.values())) == 1
    assert firsts[1] == pytest.approx(0.4, abs=1e-3)


def test_a_picture_is_followed_less_the_more_noise_it_gets(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    def distance(strength: float) -> float:
        made = pipe(prompt="a cat", image=apple, strength=strength, steps=6, seed=1).image
        return float(np.abs(np.asarray(made, dtype=float) - np.asarray(apple, dtype=float)).mean())

    assert distance(0.1) < distance(0.5) < distance(1.0)


def test_a_picture_of_another_size_is_scaled_and_cropped(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    wide = Image.new("RGB", (200, 100), "white")
    assert pipe(prompt="a cat", image=wide, strength=0.2, steps=1).image.size == (64, 64)
    assert fitted(wide, 64, 64).size == (64, 64)
    assert fitted(apple, 64, 64) is apple


def test_what_a_mask_keeps_is_kept_to_the_pixel(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    made = np.asarray(pipe(prompt="a blue car", image=apple, mask=mask, strength=1.0, steps=6, seed=2).image)
    before = np.asarray(apple)
    assert np.array_equal(made[:, :32], before[:, :32])
    assert not np.array_equal(made[:, 32:], before[:, 32:])


def test_masks_are_checked_against_the_picture(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    with pytest.raises(InputError, match="mask must be as large as image, 64x64, got 32x32"):
        pipe(prompt="a cat", image=apple, mask=Image.new("L", (32, 32)))
    with pytest.raises(
        UnusedInput, match="mask was given, but nothing in this call reads it: masks is skipped because image"
    ):
        pipe(prompt="a cat", mask=Image.new("L", (64, 64)))
    with pytest.raises(UnusedInput, match="strength was given, but nothing in this call reads it"):
        pipe(prompt="a cat", strength=0.3)


def test_a_latent_may_change_where_any_of_its_pixels_may() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8, 8] = 1
    assert shrink_mask(mask, 8).flatten().tolist() == [0, 0, 0, 1]


def test_units_are_called_by_hand(pipe: TextToImagePipeline, apple: Image.Image) -> None:
    embeds = prompt_embeds("a red apple", tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)
    assert embeds.prompt_embeds.shape[0] == 1 and embeds.prompt_mask.sum() == 4
    assert noise(3, 64, 32, vae=pipe.vae).shape == (1, 16, 8, 4)
    with torch.no_grad():
        latents = image_latents(apple, 64, 64, vae=pipe.vae)
        back = pipe.vae.decode(latents)
    assert latents.shape == (1, 16, 8, 8)
    assert (back - to_array(apple)).abs().mean() < 0.1
    assert masks(Image.new("L", (64, 64), 255), apple, 64, 64, vae=pipe.vae).mask_latents.min() == 1


def test_given_embeddings_replace_the_encoder(pipe: TextToImagePipeline) -> None:
    wires = ("prompt_embeds", "prompt_mask", "pooled_embeds")
    made = pipe(prompt="a red apple", outputs=wires)
    assert all(isinstance(made[wire][0], Branches) for wire in wires)
    bare = DiffusionPipeline.from_pretrained(MODEL, device="cpu", only=["transformer", "vae", "scheduler"])
    assert bare.text_encoder is None
    given = {wire: made[wire][0] for wire in wires}
    found = bare(given=given, seed=7, steps=4, outputs=("latents",)).latents
    assert torch.equal(found, latents_of(pipe))


def test_one_step_and_other_sizes(pipe: TextToImagePipeline) -> None:
    assert latents_of(pipe, steps=1).isfinite().all()
    assert pipe(prompt="a cat", height=96, width=64, steps=2, seed=0).image.size == (64, 96)
    with pytest.raises(InputError, match="height must be a multiple of 8, got 100; nearest is 96 and 104"):
        pipe(prompt="a cat", height=100)


def test_unknown_words_and_long_prompts_are_refused(pipe: TextToImagePipeline) -> None:
    with pytest.raises(InputError, match="the word 'appple' is not in the vocabulary; did you mean 'apple'"):
        pipe(prompt="a red appple")
    with pytest.raises(InputError, match="a prompt must have at most"):
        pipe(prompt="a " * 100)


def test_a_budget_moves_components_and_changes_nothing(pipe: TextToImagePipeline) -> None:
    sizes = [pipe.plan(prompt="a cat").sizes[name] for name in ("transformer", "text_encoder")]
    small = DiffusionPipeline.from_pretrained(MODEL, device="cpu", memory=max(sizes))
    assert torch.equal(latents_of(small), latents_of(pipe))


def test_split_names_what_training_caches(pipe: TextToImagePipeline) -> None:
    split = pipe.split(["transformer"])
    assert "prompt_embeds" in split.cached and "denoise" in split.live and split.unused == ("image",)
    assert "text_encoder" not in split.components and "text_encoder" in pipe.split(["text_encoder"]).components


def test_it_loads_what_it_saves(pipe: TextToImagePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "copy")
    again = DiffusionPipeline.from_pretrained(tmp_path / "copy", device="cpu")
    assert torch.equal(latents_of(again), latents_of(pipe))


def test_the_model_is_small() -> None:

    assets = Path(calotype.__file__).parent / "assets" / "emoji-64"
    assert sum(path.stat().st_size for path in assets.rglob("*") if path.is_file()) <= 20e6


def test_given_noise_of_another_shape_is_refused(pipe: TextToImagePipeline) -> None:
    for shape in ((2, 16, 8, 8), (16, 8, 8)):
        with pytest.raises(
            InputError, match=r"given: 'noise' must be one item, an array of shape \(1, \.\.\.\), got Te"
        ):
            pipe.plan(prompt="a red apple", given={"noise": torch.zeros(shape)})
