"""`calotype replay`, and the same from Python."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from calotype.cli.replay import DIFFERS
from calotype.errors import ComponentError, RepositoryError
from calotype.pipelines.replay.again import replay
from calotype.pipelines.replay.recipe import Recipe, read_recipe, save_png
from calotype.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture
def model(repo, here):
    """A copy of the repository that a test may change."""
    shutil.copytree(repo, here / "model")
    return Path("model")


@pytest.fixture
def car(run, model):
    size = ["--height", 16, "--width", 16, "--steps", 2]
    assert run("generate", "--model", model, "a car", *size, "-o", "car.png").exit_code == 0
    return Path("car.png")


def edited(path: Path, **changes: object) -> None:
    """Save a picture again with another recipe."""
    recipe = read_recipe(path)
    with Image.open(path) as picture:
        picture.load()
    save_png(picture, path, Recipe(**{**recipe.__dict__, **changes}))


def test_a_picture_is_made_again_bit_for_bit(run, car):
    result = run("replay", car)
    assert (result.exit_code, result.stdout) == (0, "identical\n")


def test_a_budget_is_a_number_of_bytes_too(run, car):
    assert run("replay", car, "--memory", 50_000_000).exit_code == 0


@pytest.mark.parametrize("options", [("--num-images", 3), ("--dtype", "float16"), ("--guidance-interval", 0, 0.5)])
def test_every_picture_of_a_call_is(run, model, options):
    size = ["--height", 16, "--width", 16, "--steps", 2]
    for path in run("generate", "--model", model, "a red car", *size, *options).stdout.split():
        assert run("replay", path).stdout == "identical\n"


def test_an_input_picture_is_part_of_the_recipe(run, model, car):
    size = ["--height", 16, "--width", 16, "--steps", 2]
    run("generate", "--model", model, "a red car", *size, "--image", car, "-o", "red.png")
    car.unlink()
    assert run("replay", "red.png").stdout == "identical\n"


def test_outputs_other_than_the_pipelines_own(run, model):
    pipe = TextToImagePipeline.from_pretrained(model)
    made = pipe(prompt="a car", height=16, width=16, steps=1, outputs=("latents", "image"))
    made.save("both.png")
    assert run("replay", "both.png").stdout == "identical\n"


def test_the_new_picture_can_be_kept(run, car):
    result = run("replay", car, "-o", "again.png")
    assert result.stdout == "again.png\nidentical\n"
    assert Path("again.png").read_bytes() == car.read_bytes()
    refused = run("replay", car, "-o", "again.png")
    assert refused.exit_code == 2
    assert "again.png is there already" in refused.stderr


def test_a_picture_that_differs(run, car):
    recipe = read_recipe(car)
    with Image.open(car) as picture:
        picture.load()
    red, green, blue = picture.getpixel((3, 5))
    picture.putpixel((3, 5), (red, green, blue ^ 1))
    save_png(picture, car, recipe)
    edited(car, versions={**recipe.versions, "torch": "1.0"})
    result = run("replay", car)
    assert result.exit_code == DIFFERS
    assert "not identical: 1 of 256 pixels differ, by up to 1 of 255 levels (torch was 1.0, now" in result.stdout


def test_a_picture_of_another_size(run, car):
    recipe = read_recipe(car)
    save_png(Image.new("RGB", (8, 8)), car, recipe)
    result = run("replay", car)
    assert result.exit_code == DIFFERS
    assert "the original is 8x8 RGB, made again it is 16x16 RGB" in result.stdout


def test_a_component_that_is_not_the_same_is_named(run, car, model):
    pipe = TextToImagePipeline.from_pretrained(model)
    with torch.no_grad():
        next(pipe.vae.parameters()).add_(1)
    pipe.save_pretrained(model)
    result = run("replay", car)
    assert result.exit_code == 1
    assert "car.png, made from 'model': the components differ from those that made it: 'vae' is not" in result.stderr
    assert "transformer" not in result.stderr
    with pytest.raises(ComponentError, match="'vae' is not the same"):
        replay(car)


def test_a_model_that_moved(run, car, model):
    model.rename("elsewhere")
    result = run("replay", car)
    assert result.exit_code == 1
    assert "car.png was made from 'model', which is not there (there is no folder model)" in result.stderr
    assert "--model" in result.stderr
    assert run("replay", car, "--model", "elsewhere").stdout == "identical\n"
    assert "there is no folder nowhere" in run("replay", car, "--model", "nowhere").stderr


def test_a_model_of_another_pipeline(run, car, ddpm):
    result = run("replay", car, "--model", ddpm)
    assert f"car.png was made by a TextToImagePipeline, but {ddpm} is for a DDPMPipeline" in result.stderr


def test_given_values_cannot_be_replayed(run, model):
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe(prompt="a car", steps=1, given={"noise": torch.zeros(1, 4, 16, 16)}).save("given.png")
    result = run("replay", "given.png")
    assert result.exit_code == 1
    assert "given.png cannot be replayed: noise was given to the call as a computed value" in result.stderr


def test_a_pipeline_that_was_put_together_by_hand(run, model):
    loaded = TextToImagePipeline.from_pretrained(model)
    TextToImagePipeline(**loaded.components)(prompt="a car", height=16, width=16, steps=1).save("hand.png")
    result = run("replay", "hand.png")
    assert "hand.png was made by a TextToImagePipeline that was put together by hand" in result.stderr
    assert run("replay", "hand.png", "--model", model).stdout == "identical\n"


def test_an_item_that_the_call_does_not_make(run, car):
    edited(car, item=4)
    assert "says that it is picture 4 of its call, which makes 1" in run("replay", car).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "car.png: this is not a recipe that this version reads: Invalid JSON"),
        ("[]", "car.png: this is not a recipe that this version reads: Input should be"),
        ("{}", "car.png: this is not a recipe that this version reads: pipeline: Field required"),
    ],
)
def test_a_damaged_recipe(run, car, text, message):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("calotype", text)
    Image.new("RGB", (8, 8)).save(car, pnginfo=info)
    result = run("replay", car)
    assert result.exit_code == 1
    assert message in result.stderr


def test_files_that_are_no_pictures_of_ours(run, here):
    Path("text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save("other.png")
    assert "there is no file nowhere.png" in run("replay", "nowhere.png").stderr
    assert "text.png is not a picture that can be read" in run("replay", "text.png").stderr
    assert "other.png carries no recipe" in run("replay", "other.png").stderr
    with pytest.raises(RepositoryError, match="carries no recipe"):
        replay("other.png")
