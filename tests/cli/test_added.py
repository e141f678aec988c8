"""Packs of units and adapters on the command line."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from calotype.cli.command import weighed_adapter
from calotype.pipelines.replay.recipe import read_recipe
from calotype.pipelines.text_to_image import TextToImagePipeline
from calotype.weights.code.locate import SHIPPED

CALL = ("generate", "a red apple", "--seed", "1", "--steps", "2")


@pytest.fixture
def lora(repo: Path, here: Path) -> Path:
    """An adapter for the tiny model."""
    layer = TextToImagePipeline.from_pretrained(repo).transformer.blocks[0].to_out
    torch.manual_seed(0)
    key = "transformer.blocks.0.to_out.lora_{}.weight"
    save_file(
        {key.format("A"): torch.randn(2, layer.in_features), key.format("B"): torch.randn(layer.out_features, 2)},
        here / "wild.safetensors",
    )
    return here / "wild.safetensors"


def test_a_pack_has_flags_and_is_replayed(run, repo: Path, here: Path) -> None:
    model = ("--model", str(repo))
    plain = run(*CALL, *model, "-o", "plain.png")
    pack = ("--units", "composable")
    made = run(*CALL, *model, *pack, "--also", "a blue car:0.7", "-o", "two.png")
    assert plain.exit_code == 0 and made.exit_code == 0, made.output
    assert (here / "two.png").read_bytes() != (here / "plain.png").read_bytes()
    assert read_recipe(here / "two.png").inputs["also"] == "a blue car:0.7"
    assert run("replay", "two.png").stdout == "identical\n"
    assert "--also" in run("generate", *model, *pack, "--help").stdout
    unknown = run(*CALL, *model, "--also", "a blue car", "-o", "x.png")
    assert unknown.exit_code == 2 and "--also" in unknown.stderr


def test_a_pack_whose_units_lie_apart_is_replayed(run, repo: Path, here: Path) -> None:
    assert run(*CALL, "--model", str(repo), "-o", "from.png").exit_code == 0
    edit = ("--units", "edict", "--source-prompt", "a car", "--image", "from.png", "--strength", "0.5")
    made = run(*CALL, "--model", str(repo), *edit, "-o", "to.png")
    assert made.exit_code == 0, made.output
    assert read_recipe(here / "to.png").units[0] == "said"
    assert run("replay", "to.png").stdout == "identical\n"


def test_several_packs_and_a_file(run, repo: Path, here: Path) -> None:
    (here / "mine.py").write_text((SHIPPED / "soft_mask.py").read_text())
    both = ("--units", "composable", "-u", "./mine.py")
    told = run("generate", "--model", str(repo), *both, "--help").stdout
    assert "--also" in told and "--mask-blur" in told
    wrong = run(*CALL, "--model", str(repo), "--units", "morph")
    assert (
        wrong.exit_code == 1 and "it defines the pipeline MorphPipeline: load it with custom_pipeline=" in wrong.stderr
    )


def test_an_adapter_runs_at_its_weight_and_is_replayed(run, repo: Path, here: Path, lora: Path) -> None:
    model = ("--model", str(repo))
    for name, adapters in {"plain": (), "none": ("wild.safetensors:0",), "half": ("wild.safetensors:0.5",)}.items():
        flags = [part for adapter in adapters for part in ("--adapter", adapter)]
        made = run(*CALL, *model, *flags, "-o", f"{name}.png")
        assert made.exit_code == 0, made.output
    pixels = {name: _pixels(here / f"{name}.png") for name in ("plain", "none", "half")}
    assert pixels["plain"] == pixels["none"] != pixels["half"]
    (record,) = read_recipe(here / "half.png").adapters
    assert record.weight == 0.5
    refused = run("replay", "half.png")
    assert refused.exit_code == 1 and "On the command line: --adapter FILE:WEIGHT" in refused.stderr
    assert run("replay", "half.png", "--adapter", "wild.safetensors:0.5").stdout == "identical\n"
    other = run("replay", "half.png", "--adapter", "wild.safetensors")
    assert other.exit_code == 1 and "at 0.5" in other.stderr


def test_many_pictures_are_not_taken_for_those_of_another_adapter(run, repo: Path, here: Path, lora: Path) -> None:
    (here / "jobs.jsonl").write_text('"a red apple"\n')
    many = ("generate", "--model", str(repo), "--prompts", "jobs.jsonl", "-o", "out", "--steps", "1")
    with_it = (*many, "--adapter", "wild.safetensors")
    assert run(*many).exit_code == 0 and "are finished" in run(*many).stderr
    refused = run(*with_it)
    assert refused.exit_code == 1 and "was made with the adapters none" in refused.stderr
    assert run(*with_it, "--force").exit_code == 0 and run(*with_it).exit_code == 0
    again = run(*many)
    assert again.exit_code == 1 and "was made with the adapters 'wild'" in again.stderr


def test_what_is_wrong_with_an_adapter(run, repo: Path) -> None:
    for flag, message in {"lost.safetensors": "lost.safetensors", "lost:nan": "lost"}.items():
        made = run(*CALL, "--model", str(repo), "--adapter", flag)
        assert made.exit_code == 1 and message in made.stderr and "Traceback" not in made.stderr


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a/b:0.5", ("a/b", 0.5)),
        ("a:-1", ("a", -1.0)),
        ("c:x", ("c:x", 1.0)),
    ],
)
def test_a_weight_is_a_number_after_the_last_colon(text: str, wanted: tuple[str, float]) -> None:
    assert weighed_adapter(text) == wanted


def _pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()
