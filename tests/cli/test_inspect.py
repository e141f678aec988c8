"""`calotype inspect`."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree


def test_what_a_repository_is(run, repo):
    result = run("inspect", repo)
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    for text in (
        f"{repo}: TextToImagePipeline. Draws what a prompt says.",
        "tokenizer WordTokenizer",
        "transformer MiniTransformer2DModel 6,324 parameters float32 24.7 KiB",
        "prompt str, or a list required What to draw",
        "height int 64 16 to 512, multiple of 8",
        "guidance_interval tuple[float, float] [0.0, 1.0]",
        "* denoise [scheduler, transformer]",
        "Plan of a call with prompt='a red apple'",
        "skipped image_latents: image is None",
    ):
        assert text in words, text


def test_the_plan_of_the_inputs_that_are_given(run, repo):
    result = run("inspect", repo, "--prompt", "a car", "--guidance-scale", 1, "--num-images", 2)
    assert "2 images, branches positive\n" in result.output
    assert "prompt='a car', guidance_scale=1.0, num_images=2" in result.output


def test_the_plan_within_a_budget(run, repo):
    result = run(
        "inspect", repo, "--memory", "200KiB", "--placement", "text_encoder=cpu", "--height", 16, "--width", 16
    )
    assert "whole, from the disk" in result.output and "predicted peak" in result.output
    about = json.loads(run("inspect", repo, "--memory", "200KiB", "--json", "--height", 16, "--width", 16).stdout)
    assert about["plan"]["bytes_moved"] > 0 and about["plan"]["chosen"] == [] and about["plan"]["devices"] == {}


def test_the_budget_that_a_refusal_asks_for_can_be_given_as_it_says(run, repo):
    call = "inspect", repo, "--height", 16, "--width", 16, "--memory"
    refused = run(*call, 8)
    assert refused.exit_code == 1
    wanted = re.search(r"give memory=(\d+) \(bytes\)", refused.stderr)[1]
    assert "predicted peak" in run(*call, wanted).output


def test_a_wrong_input_is_refused(run, repo):
    result = run("inspect", repo, "--steps", 0)
    assert result.exit_code == 2
    assert "--steps must be at least 1, got 0" in result.stderr


def test_json_for_programs(run, repo):
    about = json.loads(run("inspect", "--steps", 5, repo, "--json").stdout)
    assert about["pipeline"] == "TextToImagePipeline"
    vae = next(c for c in about["components"] if c["name"] == "vae")
    assert vae == {"name": "vae", "class": "MiniAutoencoderKL", "parameters": 17131, "dtypes": ["float32"],
                   "bytes": vae["bytes"]}  # fmt: skip
    negative = next(i for i in about["inputs"] if i["name"] == "negative_prompt")
    assert negative == {"name": "negative_prompt", "type": "str", "list": True, "required": False, "default": "",
                        "bounds": "", "negative_of": "prompt", "doc": "What to steer away from."}  # fmt: skip
    assert about["plan"]["inputs"] == {"prompt": "a red apple", "steps": 5}
    assert about["plan"]["branches"] == ["positive", "negative"]
    assert {"name": "noise", "runs": 1, "components": ["vae"]} in about["plan"]["units"]


def test_drawings(run, repo, here):
    assert run("inspect", repo, "--svg", "graph.svg", "--html", "graph.html").exit_code == 0
    assert ElementTree.parse("graph.svg").getroot().tag.endswith("svg")
    assert Path("graph.html").read_text().startswith("<!doctype html>")
    result = run("inspect", repo, "--svg", "graph.svg")
    assert result.exit_code == 2
    assert "graph.svg is there already; give another name, or --force to replace it" in result.stderr
    assert run("inspect", repo, "--svg", "graph.svg", "--force").exit_code == 0


def test_a_pipeline_without_a_prompt(run, ddpm):
    output = run("inspect", ddpm, "--num-inference-steps", 10).output
    assert "DDPMPipeline" in output
    assert "\nPlan" in output


def test_defaults_that_the_repository_refuses(run, ddpm):
    done = run("inspect", ddpm)
    assert done.exit_code == 0
    assert "DDPMPipeline" in done.output
    assert "a call with the defaults is refused: steps must be at most num_train_timesteps=20" in done.output
    given = run("inspect", ddpm, "--num-inference-steps", 30)
    assert given.exit_code == 2
    assert "num_train_timesteps=20, got 30" in given.stderr


def test_the_repository_comes_first(run, repo):
    result = run("inspect", "--force", repo, "second")
    assert result.exit_code == 2
    assert "unexpected extra argument" in result.stderr
