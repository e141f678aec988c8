"""What a call returns."""

import pytest
from PIL import Image

from calotype.errors import InputError
from calotype.pipelines.replay.recipe import read_recipe
from calotype.pipelines.result import Result
from stubs import text_to_image


@pytest.fixture(scope="module")
def several():
    return text_to_image()(prompt=["a", "b"], num_images=2, seed=5, outputs=("image", "embeds"))


def test_values_by_name(several):
    assert list(several) == ["image", "embeds"] and len(several) == 4
    assert len(several["image"]) == 4 and several.images == several["image"]
    assert repr(several) == "Result(image: 4, embeds: 2)"


def test_one_value_is_an_attribute():
    result = text_to_image()(prompt="a", seed=1)
    assert result.image is result["image"][0] and result._repr_png_().startswith(b"\x89PNG")


def test_wrong_names(several):
    with pytest.raises(InputError, match=r"the result has no 'imge'; did you mean 'image'\?; it has image, embeds"):
        several["imge"]
    with pytest.raises(AttributeError, match=r"the result has no 'imge'; did you mean 'image'\?"):
        _ = several.imge
    with pytest.raises(InputError, match=r"result\.image is one value, but there are 4; use result\['image'\]"):
        _ = several.image
    assert several._repr_png_() is None


def test_saved_with_their_recipe(several, tmp_path):
    paths = several.save(tmp_path / "a.png")
    assert [p.name for p in paths] == ["a-0.png", "a-1.png", "a-2.png", "a-3.png"]
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            assert picture.convert("RGB").tobytes() == several.images[number].tobytes()
        recipe = read_recipe(path)
        assert recipe.item == number and recipe.inputs["seed"] == 5 and recipe.inputs["prompt"] == ["a", "b"]
    assert text_to_image()(prompt="a").save(str(tmp_path / "b.PNG")) == [tmp_path / "b.PNG"]


def test_what_cannot_be_saved(several, tmp_path):
    with pytest.raises(
        InputError, match=r"a\.jpg: pictures are saved as \.png, which carries the recipe; name it a\.png"
    ):
        several.save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="nothing to save: the outputs noise hold no picture"):
        text_to_image()(outputs=("noise",), seed=1).save(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_an_item_is_not_an_output():
    pictures = Result({"image": [Image.new("L", (1, 1))]}, lambda: None)
    with pytest.raises(
        InputError, match=r"by the name of an output, got 0; write result\['image'\]\[0\], or result.im"
    ):
        pictures[0]
    with pytest.raises(InputError, match=r"got 0; write result\['latents'\]\[0\]$"):
        Result({"latents": [1]}, lambda: None)[0]


def test_a_folder_that_does_not_exist(tmp_path):
    result = Result({"image": [Image.new("L", (1, 1))]}, lambda: None)
    with pytest.raises(InputError, match=r"x.png: the folder .*missing does not exist; make it first"):
        result.save(tmp_path / "missing" / "x.png")
