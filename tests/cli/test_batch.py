"""`calotype generate --prompts`: naming, seeds, resuming, interruption, and bad lines."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from calotype.pipelines.replay.recipe import read_recipe

LINES = [
    "a red apple",
    {"prompt": "a blue house", "seed": 7, "output": "house.png"},
    {"prompt": "a car", "num_images": 2, "negative_prompt": "red"},
    "a red apple",
]


def write(*lines: object, name: str = "prompts.jsonl") -> Path:
    path = Path(name)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def contents(folder: str | Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_each_line_becomes_pictures(generate, here):
    result = generate("--prompts", write(*LINES))
    assert result.exit_code == 0, result.output
    names = ["a-red-apple.png", "house.png", "a-car-0.png", "a-car-1.png", "a-red-apple-2.png"]
    assert [Path(line).name for line in result.stdout.split()] == names
    assert set(contents("prompts")) == set(names)
    assert read_recipe("prompts/house.png").inputs["seed"] == 7


def test_equal_lines_draw_different_pictures_and_restarts_the_same(generate, here):
    generate("--prompts", write(*LINES))
    first = contents("prompts")
    assert first["a-red-apple.png"] != first["a-red-apple-2.png"]
    generate("--prompts", "prompts.jsonl", "-o", "again")
    assert contents("again") == first


def test_the_seed_of_a_line_depends_on_its_content_alone(generate, here):
    generate("--prompts", write("a car", "a house", name="one.jsonl"))
    generate("--prompts", write("a red apple", {"prompt": "a house"}, name="two.jsonl"))
    assert read_recipe("one/a-house.png").inputs["seed"] != read_recipe("one/a-car.png").inputs["seed"]
    assert read_recipe("one/a-house.png").inputs["seed"] == read_recipe("two/a-house.png").inputs["seed"]


def test_flags_are_the_defaults_of_lines(generate, here):
    generate("--prompts", write("a car", {"prompt": "a house", "guidance_scale": 2.0}), "--guidance-scale", 5)
    assert read_recipe("prompts/a-car.png").inputs["guidance_scale"] == 5.0
    assert read_recipe("prompts/a-house.png").inputs["guidance_scale"] == 2.0


def test_finished_pictures_are_not_made_again(generate, here):
    generate("--prompts", write(*LINES))
    before = {p.name: p.stat().st_mtime_ns for p in Path("prompts").iterdir()}
    result = generate("--prompts", "prompts.jsonl")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "All 4 lines of prompts.jsonl are finished, in prompts." in result.stderr
    assert {p.name: p.stat().st_mtime_ns for p in Path("prompts").iterdir()} == before


def test_only_what_is_missing_is_made(generate, here):
    generate("--prompts", write(*LINES))
    first = contents("prompts")
    Path("prompts/house.png").unlink()
    result = generate("--prompts", write(*LINES, "a blue car"))
    assert [Path(line).name for line in result.stdout.split()] == ["house.png", "a-blue-car.png"]
    assert "3 of 5 lines are finished already." in result.stderr
    assert {name: contents("prompts")[name] for name in first} == first


def test_a_picture_of_another_call_is_an_error(generate, here):
    generate("--prompts", write(*LINES))
    before = contents("prompts")
    result = generate("--prompts", "prompts.jsonl", "--guidance-scale", 2)
    assert result.exit_code == 1
    assert f"line 1 would write {Path('prompts/a-red-apple.png')}, which is there already" in result.stderr
    assert "(its guidance_scale is 3.0, the line's is 2.0)" in result.stderr
    assert contents("prompts") == before
    forced = generate("--prompts", "prompts.jsonl", "--guidance-scale", 2, "--force")
    assert forced.exit_code == 0
    assert read_recipe("prompts/house.png").inputs["guidance_scale"] == 2.0


def test_a_file_without_a_recipe_is_an_error(generate, here):
    write(*LINES)
    Path("prompts").mkdir()
    Image.new("RGB", (16, 16)).save("prompts/house.png")
    result = generate("--prompts", "prompts.jsonl")
    assert result.exit_code == 1
    assert f"line 2 would write {Path('prompts/house.png')}" in result.stderr
    assert "carries no recipe" in result.stderr
    assert len(contents("prompts")) == 1


def test_pictures_of_other_weights_are_an_error(run, repo, here):
    shutil.copytree(repo, here / "model")
    size = ["--height", 16, "--width", 16, "--steps", 1]
    run("generate", "--model", "model", *size, "--prompts", write("a car"))
    result = run(
        "generate", "--model", "model", *size, "--dtype", "float16", "--prompts", write("a car", "a house")
    )  # fmt: skip
    assert result.exit_code == 1
    assert f"{Path('prompts/a-car.png')} is there already: the components differ" in result.stderr
    assert "'transformer' is not the same" in result.stderr


def test_a_leftover_of_a_killed_process_is_removed(generate, here):
    write("a car")
    Path("prompts").mkdir()
    old, new = Path("prompts/a-car.png.partial-00000000"), Path("prompts/a-car.png.partial-11111111")
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 3600,) * 2)
    assert generate("--prompts", "prompts.jsonl").exit_code == 0
    assert set(contents("prompts")) == {"a-car.png", new.name}  # the other may be written right now


def test_a_pipeline_without_a_prompt(run, ddpm, here):
    lines = write({"num_inference_steps": 2, "seed": 1}, {"num_inference_steps": 2, "seed": 2})
    result = run("generate", "--model", ddpm, "--prompts", lines)
    assert [Path(line).name for line in result.stdout.split()] == ["tiny-ddpm.png", "tiny-ddpm-2.png"]
    result = run("generate", "--model", ddpm, "--prompts", write("a car"), "-o", "other")
    assert "DDPMPipeline takes no prompt; write an object of its inputs" in result.stderr


# -- what is refused ---------------------------------------------------------------------------------------------------

BAD = [
    ("a red apple", 'this is not JSON: Expecting value at column 1; a plain prompt needs quotes: "a red apple"'),
    ('{"prompt": "a car"', "this is not JSON: Expecting ',' delimiter"),
    ("[1]", "a line is a JSON string (the prompt) or an object of inputs, got [1]"),
    ('{"prompt": "a car", "sed": 7}', "'sed' is not an input; did you mean 'seed'?"),
    ('{"prompt": "a car", "steps": 0}', "steps must be at least 1, got 0"),
    ('{"prompt": "a car", "prompt": "a car"}', "'prompt' is there twice"),
    ('{"output": "x.png"}', "'prompt' is missing"),
    (
        '{"prompt": "a car", "output": "../x.png"}',
        "output must be a file in the folder of the pictures, got '../x.png'",
    ),
    ('{"prompt": "a car", "output": "/x.png"}', "output must be a file in the folder of the pictures, got '/x.png'"),
    ('{"prompt": "a car", "output": "x.jpg"}', "pictures are saved as .png, which carries the recipe; name it x.png"),
    ('{"prompt": "a car", "output": 3}', "output must be the name of a file, got 3"),
    ('{"prompt": "a car", "output": "first"}', "output first.png is that of line 1 already"),
    ('{"prompt": "a car", "outputs": ["latents"]}', "'outputs' is for Python only; did you mean 'output'?"),
    ('{"prompt": "a car", "guidance_scale": NaN}', "NaN is no number"),
    ('{"prompt": "a car", "image": "nowhere.png"}', "there is no picture file nowhere.png"),
    ('{"prompt": "a car", "guidance_scale": 1, "negative_prompt": "red"}', "guidance is off in this call"),
    ('"a ccar"', "the word 'ccar' is not in the vocabulary; did you mean 'car'?"),
    (
        '{"prompt": "a car", "negative_prompt": "bleu"}',
        "the word 'bleu' is not in the vocabulary; did you mean 'blue'?",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_a_bad_line_is_named_before_anything_is_made(generate, here, line, message):
    good = '{"prompt": "a car", "output": "first"}'
    Path("prompts.jsonl").write_text(f"{good}\n\n{line}\n", encoding="utf-8")
    result = generate("--prompts", "prompts.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: prompts.jsonl line 3: ")
    assert message in result.stderr
    assert "nothing was made" in result.stderr
    assert not Path("prompts").exists() or not contents("prompts")


def test_all_bad_lines_are_listed_in_order(generate, here):
    Path("prompts.jsonl").write_text(
        "oops\n" + '"a car"\n' + '{"prompt": "a car", "output": "x.jpg"}\n' + "oops\n" * 20
    )
    result = generate("--prompts", "prompts.jsonl")
    lines = result.stderr.splitlines()
    assert lines[0] == "Error: prompts.jsonl has 22 lines that are wrong; nothing was made:"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["line 1", "line 3", "line 4"]
    assert lines[-1].strip() == "and 12 more"


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (None, [], 2, "there is no file prompts.jsonl"),
        (b"\n\n", [], 1, "prompts.jsonl has no lines; write a prompt on each, as a JSON string or object"),
        (b'"\xff"', [], 1, "prompts.jsonl is not text in UTF-8"),
        (b'"a car"', ["-o", "x.png"], 2, "with --prompts, -o is the folder of the pictures; got x.png"),
        (b'"a car"', ["-o", "prompts.jsonl"], 2, "prompts.jsonl is not a folder, so no picture can be written in it"),
        (b'"a car"', ["a car"], 2, "give a PROMPT or --prompts FILE, not both"),
    ],
)
def test_a_file_that_cannot_be_used(generate, here, content, arguments, code, message):
    if content is not None:
        Path("prompts.jsonl").write_bytes(content)
    result = generate("--prompts", "prompts.jsonl", *arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_windows_line_ends_and_a_byte_order_mark_are_fine(generate, here):
    Path("prompts.jsonl").write_bytes(b'\xef\xbb\xbf"a car"\r\n')
    assert generate("--prompts", "prompts.jsonl").exit_code == 0


# -- interruption ------------------------------------------------------------------------------------------------------

SLOW = """
import time
from calotype.cli.display import Display
watch = Display.watch
def slow(self, stream, *args, **options):
    time.sleep(0.3)
    return watch(self, stream, *args, **options)
Display.watch = slow
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_batch_is_continued(spawn, generate, repo, here, number, code):
    size = ["--height", 16, "--width", 16, "--steps", 2]
    lines = write(*LINES, *({"prompt": "a blue car", "seed": seed} for seed in range(6)))
    process = spawn("generate", "--model", repo, *size, "--prompts", lines, before=SLOW)
    made = [process.stdout.readline() for _ in range(2)]
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    if number != signal.SIGKILL:
        assert "lines are finished. To continue, run it again: calotype generate --model" in errors
        assert ("Stopped." if number == signal.SIGINT else "Terminated.") in errors
        assert "Traceback" not in errors
        assert not list(Path("prompts").glob("*.partial-*"))
    finished = {Path(line.strip()).name for line in [*made, *rest.splitlines()]}
    assert len(finished) < 11
    before = {p.name: p.stat().st_mtime_ns for p in Path("prompts").glob("*.png")}
    for path in Path("prompts").glob("*.png"):
        read_recipe(path)  # whole, with its recipe
    result = generate("--prompts", lines)
    assert result.exit_code == 0, result.output
    after = {p.name: p.stat().st_mtime_ns for p in Path("prompts").glob("*.png")}
    assert len(after) == 11
    assert all(after[name] == before[name] for name in finished - {"a-car-0.png", "a-car-1.png"})
    generate("--prompts", lines, "-o", "straight")
    assert {n: c for n, c in contents("prompts").items() if n.endswith(".png")} == contents("straight")


def test_an_interrupted_call_ends_with_130(spawn, repo, here):
    process = spawn("generate", "--model", repo, "a car", "--steps", 1000)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)  # while torch is imported, or while it runs
    process.communicate(timeout=60)
    assert process.returncode in (130, -2)
    assert not list(here.glob("*.png*"))
