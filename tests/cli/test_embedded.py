"""The first thing that a person types, on the model that ships with the package."""

from PIL import Image

from calotype.pipelines.replay.recipe import read_recipe


def test_a_red_apple(run, here):
    result = run("generate", "a red apple", "-o", "apple.png", "--seed", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout == "apple.png\n"
    with Image.open("apple.png") as picture:
        assert picture.size == (64, 64)
    assert read_recipe("apple.png").source == "calotype/emoji-64"
    assert run("replay", "apple.png").stdout == "identical\n"


def test_its_description(run):
    output = run("inspect").output
    assert "calotype/emoji-64: TextToImagePipeline" in output
    assert "Plan of a call with prompt='a red apple'" in output
