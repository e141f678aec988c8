"""The recipe of the small double-stream transformer in small: its units, its data, and every stage for two steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recipes.emoji.captions import BACKGROUNDS, HUES, Composer
from recipes.emoji.render import Concept
from recipes.emoji.settings import STYLES
from recipes.scenes import __main__ as scenes
from recipes.scenes import pictures
from recipes.scenes.pipeline import EDITING, REGIONS, untrained

from calotype import TextToImagePipeline
from calotype.pipelines.text_to_image import control, new_controlnet
from calotype.training.log import read_table

CALL: dict[str, Any] = {"prompt": "a cat", "seed": 1, "steps": 2, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The pipeline with a transformer that does something."""
    made = untrained()
    torch.manual_seed(0)
    for name, parameter in made.transformer.named_parameters():
        if "_mod." in name or "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return made.to("cpu")


def latents(pipe: Any, **inputs: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(outputs=("latents",), **{**CALL, **inputs})["latents"][0]
    return found


def half(left: bool) -> Image.Image:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32) if left else (16, 0, 32, 32))
    return mask


def test_it_begins_as_nothing_and_draws_with_the_embedded_models_parts(pipe: Any) -> None:
    new = untrained()
    assert 7e6 < sum(parameter.numel() for parameter in new.transformer.parameters()) < 9e6
    shown = torch.randn(1, 16, 16)
    text = torch.randn(1, 3, 192)
    assert (new.transformer(shown, text, timestep=0.5, img_shapes=[[(1, 4, 4)]]).sample == 0).all()
    embedded = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    assert pipe(**CALL).image.size == embedded(**CALL).image.size == (32, 32)
    assert not torch.equal(latents(pipe), latents(pipe, prompt="a dog"))


def test_prompts_of_several_lengths_make_one_batch(pipe: Any) -> None:
    prompts = ["a cat", "a red apple on a blue background"]
    both = pipe(outputs=("latents",), **{**CALL, "prompt": prompts})["latents"]
    torch.testing.assert_close(list(both), [latents(pipe, prompt=p) for p in prompts], atol=1e-4, rtol=1e-3)


def test_a_region_has_a_prompt_of_its_own(pipe: Any) -> None:
    regional = pipe.with_units(REGIONS)
    assert torch.equal(latents(regional), latents(pipe))
    two = {"region_prompts": ("a cat", "a dog"), "region_masks": (half(True), half(False))}
    first = latents(regional, steps=1, guidance_scale=1.0, **two)
    other = latents(regional, steps=1, guidance_scale=1.0, **{**two, "region_prompts": ("a cat", "a rocket")})
    moved = (first - other).abs().mean((0, 1, 2))
    assert moved[2:].sum() > moved[:2].sum() > 0  # the left half sees the right one's words through the picture alone


def test_a_reference_and_a_control_are_seen(pipe: Any) -> None:
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    editor = pipe.with_units(EDITING)
    assert not torch.equal(latents(editor, reference=red), latents(editor, reference=blue))
    assert torch.equal(latents(editor), latents(pipe))
    network = new_controlnet(pipe.transformer).eval()
    controlled = pipe.with_units(control(), controlnet=network)
    assert torch.equal(latents(controlled, control_image=red), latents(pipe))  # a new network adds nothing
    torch.nn.init.normal_(network.controlnet_blocks[0].output_proj.weight, std=0.1)
    assert not torch.equal(latents(controlled, control_image=red), latents(controlled, control_image=blue))


# -- data ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def composer() -> Composer:
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.zeros((64, 64, 4), np.uint8)
    disc[np.hypot(x, y) < 24] = (200, 30, 30, 255)
    names = ["apple", "cat", "dog", "car"]
    drawn = np.stack([np.stack([disc] * len(STYLES)) for _ in names])
    return Composer([Concept(name, "0", "test", STYLES) for name in names], drawn)


@pytest.fixture
def made(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's data is of a few discs."""
    monkeypatch.setattr(pictures, "Composer", lambda *_: composer)
    monkeypatch.setattr(pictures, "load_pictures", lambda _: ((), ()))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_change_changes_what_it_says(made: None, tmp_path: Path) -> None:
    pictures.make(tmp_path / "data", pictures.changed, 24)
    for row in pictures.rows(tmp_path / "data"):
        before, after = pixels(row.inputs["reference"]), pixels(row.inputs["image"])
        said, corner = row.inputs["prompt"], after[1, 1]
        assert (before[1, 1] == 255).all()
        assert said == "red" or abs(before - after).max() > 20  # the disc is red already
        if said.startswith("on a"):
            assert tuple(corner) == BACKGROUNDS[said.split()[2]]
        else:
            assert said == "black and white" or said in HUES
            assert (corner == 255).all()


def test_each_region_names_its_own_thing(made: None, tmp_path: Path) -> None:
    pictures.make(tmp_path / "data", pictures.of_two, 6)
    for row in pictures.rows(tmp_path / "data"):
        masks = [np.asarray(mask) > 0 for mask in row.inputs["region_masks"]]
        assert (masks[0] ^ masks[1]).all() and len(row.inputs["region_prompts"]) == 2
        drawn = (pixels(row.inputs["image"]) < 250).any(-1)
        assert all((drawn & mask).sum() > 200 for mask in masks)


@pytest.mark.parametrize("stage", scenes.STAGES)
def test_every_stage_trains(stage: str, made: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, _ = scenes.STAGES[stage]["data"]
    monkeypatch.setattr(scenes, "STAGES", {stage: {**scenes.STAGES[stage], "data": (draw, 2)}})
    scenes.main(stage, str(tmp_path), "2")
    losses = [float(row["loss"]) for row in read_table(tmp_path / stage)]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert (tmp_path / stage / "result").exists()


def test_a_stage_goes_on_to_another_number_of_steps(
    made: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "STAGES", {"edit": {**scenes.STAGES["edit"], "data": (pictures.changed, 2)}})
    for steps in (2, 3):
        scenes.main("edit", str(tmp_path), str(steps))
    rows = read_table(tmp_path / "edit")
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
