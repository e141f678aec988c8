"""Recipes: what they hold, and how they are read back."""

import json

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from calotype import __version__
from calotype.errors import RepositoryError
from calotype.graph.branches import Branches
from calotype.graph.calls import read_call
from calotype.graph.unit import unit
from calotype.pipelines.pictures import Picture
from calotype.pipelines.replay.recipe import Recipe, read_recipe
from stubs import TextInputs, TextToImage, text_to_image


def test_everything_that_makes_it_again():
    pipe = text_to_image()
    recipe = pipe(prompt="a", steps=2).recipe
    assert recipe.pipeline == "TextToImage" and recipe.source is None and recipe.item == 0
    assert set(recipe.components) == {"encoder", "net", "scheduler"}
    assert recipe.dtypes == {"encoder": "float32", "net": "float32"}
    assert recipe.versions == {"calotype": __version__, "torch": torch.__version__} and recipe.device == "cpu"
    assert recipe.inputs["steps"] == 2 and recipe.inputs["guidance_scale"] == 3.0 and recipe.inputs["num_images"] == 1
    assert isinstance(recipe.inputs["seed"], int)


def test_replayed_from_its_json():
    pipe = text_to_image()
    first = pipe(prompt=["a", "b"], negative_prompt="c", num_images=2)
    recipe = Recipe.from_json(first.recipe.of_item(3).to_json())
    assert recipe == first.recipe.of_item(3)
    call = read_call(pipe.Inputs, recipe.inputs, strict=False)
    again = pipe(**call.values)
    assert again.images[3].tobytes() == first.images[3].tobytes()


def test_other_weights_are_another_digest():
    pipe = text_to_image()
    first = pipe(prompt="a", seed=1).recipe.components
    assert pipe(prompt="a", seed=1).recipe.components == first
    with torch.no_grad():
        pipe.net.weight.mul_(2)
    second = pipe(prompt="a", seed=1).recipe.components
    assert second["net"] != first["net"] and second["encoder"] == first["encoder"]


def test_given_values_and_outputs_are_named():
    value = torch.zeros(1, 2, 4)
    result = text_to_image()(given={"embeds": Branches(positive=value, negative=value)}, outputs=("image", "latents"))
    assert result.recipe.given == ("embeds",) and result.recipe.outputs == ("image", "latents")


def test_pictures_are_part_of_it():
    class Started(TextInputs):
        start: Picture | None = None

    @unit
    def shown(image: Picture, start: Picture | None) -> Picture:
        return start or image

    cls = type("Shown", (TextToImage,), {"Inputs": Started, "units": (*TextToImage.units, shown)})
    pipe = text_to_image(cls)
    start = Image.new("RGB", (2, 2), (1, 2, 3))
    recipe = pipe(prompt="a", start=start).recipe
    again = read_call(pipe.Inputs, Recipe.from_json(recipe.to_json()).inputs, strict=False)
    assert again.values["start"].tobytes() == start.tobytes()


def test_what_is_no_recipe(tmp_path):
    for text in ("", "[1]", '"x"', "{}", json.dumps({"pipeline": 3})):
        with pytest.raises(RepositoryError, match="this is not a recipe that this version reads"):
            Recipe.from_json(text)
    path = tmp_path / "a.png"
    with pytest.raises(RepositoryError, match=r"there is no file .*a\.png"):
        read_recipe(path)
    path.write_text("hello")
    with pytest.raises(RepositoryError, match=r"a\.png is not a picture that can be read"):
        read_recipe(path)
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(RepositoryError, match=r"a\.png carries no recipe; only PNG files that calotype wrote do"):
        read_recipe(path)
    info = PngInfo()
    info.add_itxt("calotype", "{}")
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    with pytest.raises(RepositoryError, match=r"a\.png: this is not a recipe that this version reads"):
        read_recipe(path)


def test_a_recipe_of_a_later_version():
    recipe = json.loads(text_to_image()(prompt="a").recipe.to_json())
    with pytest.raises(RepositoryError, match="this is not a recipe that this version reads: novelty is new"):
        Recipe.from_json(json.dumps({**recipe, "novelty": 1}))
