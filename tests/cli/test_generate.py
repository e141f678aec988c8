"""`calotype generate` with one prompt."""

import os

import pytest
from PIL import Image

from calotype.pipelines.replay.recipe import read_recipe
from calotype.pipelines.text_to_image import TextToImagePipeline


def test_a_prompt_becomes_a_picture_with_its_recipe(generate, here):
    result = generate("a red apple", "-o", "apple.png")
    assert result.exit_code == 0
    assert result.stdout == "apple.png\n"
    recipe = read_recipe("apple.png")
    assert recipe.inputs["prompt"] == "a red apple"
    assert f"Seed {recipe.inputs['seed']}." in result.stderr
    assert "calotype replay apple.png" in result.stderr


def test_it_is_the_picture_that_python_makes(generate, here, repo):
    generate("a car", "-o", "car.png", "--seed", 5, "--guidance-interval", 0, 0.5, "--negative-prompt", "red")
    pipe = TextToImagePipeline.from_pretrained(repo)
    made = pipe(
        prompt="a car", seed=5, height=16, width=16, steps=2, guidance_interval=(0.0, 0.5), negative_prompt="red"
    )
    with Image.open("car.png") as picture:
        assert picture.tobytes() == made.image.tobytes()


def test_without_a_name_the_file_is_named_after_the_prompt(generate, here):
    assert generate("A red, red apple!").stdout == "a-red-red-apple.png\n"
    assert generate("A red, red apple!").stdout == "a-red-red-apple-2.png\n"  # the first one is kept


def test_a_folder_as_output_is_where_the_named_file_goes(generate, here):
    (here / "pictures").mkdir()
    assert generate("a car", "-o", "pictures").stdout == f"{os.path.join('pictures', 'a-car.png')}\n"  # noqa: PTH118


def test_missing_folders_are_made(generate, here):
    assert generate("a car", "-o", "some/where/car.png").exit_code == 0
    assert (here / "some/where/car.png").is_file()


def test_several_pictures_are_numbered(generate, here):
    result = generate("a car", "--num-images", 3, "--seed", 4, "-o", "car.png")
    assert result.stdout.split() == ["car-0.png", "car-1.png", "car-2.png"]
    assert "Seed 4 to 6." in result.stderr
    generate("a car", "--seed", 5, "-o", "one.png")
    with Image.open("car-1.png") as first, Image.open("one.png") as second:
        assert first.size == second.size == (16, 16)


def test_a_repeated_prompt_makes_a_picture_of_each(generate, here):
    result = generate("--prompt", "a car", "--prompt", "a red house", "-o", "both.png")
    assert result.stdout.split() == ["both-0.png", "both-1.png"]
    assert read_recipe("both-1.png").inputs["prompt"] == ["a car", "a red house"]


def test_a_picture_can_be_an_input(generate, here):
    generate("a car", "-o", "car.png")
    result = generate("a red car", "--image", "car.png", "--strength", 0.5, "-o", "red.png")
    assert result.exit_code == 0, result.output
    assert read_recipe("red.png").inputs["image"].startswith("data:image/png")


def test_a_pipeline_without_a_prompt(run, ddpm, here):
    result = run("generate", "--model", ddpm, "--num-inference-steps", 2)
    assert result.exit_code == 0
    assert result.stdout == "tiny-ddpm.png\n"


def test_nothing_is_drawn_where_there_is_no_terminal(generate, here):
    result = generate("a car", "--preview")
    assert "No preview is shown: the output is not a terminal." in result.stderr
    assert "\x1b" not in result.output
    assert "it/s" not in result.output


@pytest.mark.parametrize(
    "option",
    [("--dtype", "float16"), ("--memory", "1MiB"), ("--device", "cpu"), ("--placement", "text_encoder=cpu,vae=cpu"),
     ("--placement", "auto")],
)  # fmt: skip
def test_options_of_loading(generate, here, option):
    assert generate("a car", *option).exit_code == 0
    recipe = read_recipe("a-car.png")
    assert set(recipe.dtypes.values()) == ({"float16"} if "float16" in option else {"float32"})


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG = [
    ([], 'say what to make: calotype generate "a red apple"'),
    (["a", "red", "apple"], 'the prompt is one argument: put it in quotes, "a red apple"'),
    (["a car", "--prompt", "a car"], "the prompt is given twice: as 'a car' and as --prompt"),
    (["a car", "--stepz", "3"], "No such option '--stepz'."),
    (["a car", "--guidance_scale", "3"], "'--guidance-scale'"),
    (["a car", "--steps", "0"], "--steps must be at least 1, got 0"),
    (["a car", "--steps", "many"], "Invalid value for '--steps': 'many' is not a valid integer."),
    (["a car", "--height", "17"], "--height must be a multiple of 8, got 17; nearest is 16"),
    (["a car", "--seed", "-1"], "--seed must be at least 0, got -1"),
    (["a car", "--strength", "0.4"], "--strength was given, but nothing in this call reads it"),
    (
        ["a car", "--guidance-scale", "1", "--negative-prompt", "red"],
        "--negative-prompt was given, but guidance is off",
    ),
    (["a car", "--image", "nowhere.png"], "--image: there is no picture file nowhere.png"),
    (["a ccar"], "the word 'ccar' is not in the vocabulary; did you mean 'car'?"),
    (["a car", "-o", "car.jpg"], "car.jpg: pictures are saved as .png, which carries the recipe; name it car.png"),
    (["a car", "-o", "there.png"], "there.png is there already; give another name, or --force to replace it"),
    (["a car", "-o", "there.png/car.png"], "there.png is not a folder, so no picture can be written in it"),
    (["a car", "--dtype", "flat16"], "got 'flat16'; did you mean 'float16'?"),
    (["a car", "--device", "toaster"], "device must name a torch device such as 'cuda' or 'cpu', got 'toaster'"),
    (["a car", "--placement", "text_encodr=cpu"], "there is no component 'text_encodr'; did you mean 'text_encoder'?"),
    (["a car", "--placement", "cpu"], "placement must be 'auto' or a mapping"),
    (["a car", "--prompts", "file.jsonl"], "give a PROMPT or --prompts FILE, not both"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a) or "nothing" for a, _ in WRONG])
def test_a_wrong_command_line_is_refused_by_name(generate, here, arguments, message):
    (here / "there.png").write_bytes(b"precious")
    result = generate(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert (here / "there.png").read_bytes() == b"precious"
    assert [p.name for p in here.iterdir()] == ["there.png"]


def test_force_replaces_a_file(generate, here):
    (here / "there.png").write_bytes(b"old")
    assert generate("a car", "-o", "there.png", "--force").exit_code == 0
    assert read_recipe("there.png").inputs["prompt"] == "a car"


def test_several_files_are_all_looked_at_first(generate, here):
    (here / "car-1.png").write_bytes(b"precious")
    result = generate("a car", "-o", "car.png", "--num-images", 2)
    assert result.exit_code == 2
    assert "car-1.png is there already" in result.stderr
    assert not (here / "car-0.png").exists()


def test_a_prompt_for_a_model_that_takes_none(run, ddpm):
    result = run("generate", "--model", ddpm, "a car")
    assert result.exit_code == 2
    assert "DDPMPipeline takes no prompt; got 'a car'" in result.stderr


def test_damaged_weights_fail_in_one_line(run, repo, here):
    import shutil

    shutil.copytree(repo, here / "broken")
    next((here / "broken/vae").glob("*.safetensors")).write_bytes(b"no weights")
    result = run("generate", "--model", "broken", "a car")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "safetensors" in result.stderr
    assert result.stderr.count("\n") == 1
