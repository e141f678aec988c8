"""A keyword of other libraries' calls gets the one that says the same here."""

import ast
import re

import pytest

from calotype import DDPMPipeline, StableDiffusionPipeline, TextToImagePipeline
from calotype.errors import UnknownInput
from calotype.graph.calls import read_call
from calotype.graph.inputs import Inputs
from calotype.graph.keywords import OTHERS, instead_of

PIPELINES = (TextToImagePipeline, StableDiffusionPipeline)


class Stepped(Inputs):
    prompt: str = ""
    steps: int = 24


class Inferred(Inputs):
    num_inference_steps: int = 50
    num_images_per_prompt: int = 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("output_type", "latent", r'outputs=\("latents",\)'),
        ("latents", 0, r'given=\{"noise": latents\}'),
        ("prompt_embeds", 0, r'given=\{"prompt_embeds": prompt_embeds\}'),
        ("generator", 0, "write seed="),
        ("callback_on_step_end", print, r"for event in pipe\.stream"),
        ("num_images_per_prompt", 2, "write num_images="),
        ("cross_attention_kwargs", {}, r"pipe\.set_adapters"),
        ("return_dict", False, "gives a Result; leave it out"),
        ("eta", 0.5, r"solver=Ddim\(eta="),
        ("num_inference_steps", 5, "write steps="),
    ],
)
def test_the_message_says_what_to_write(name, value, said):
    with pytest.raises(UnknownInput, match=f"'{name}' is not an input; .*{said}"):
        read_call(Stepped, {name: value})


def test_an_input_that_the_pipeline_has_is_taken_and_one_that_it_lacks_is_not_named():
    assert read_call(Inferred, {"num_images_per_prompt": 2}).values["num_images_per_prompt"] == 2
    with pytest.raises(UnknownInput, match="'steps' is not an input; write num_inference_steps="):
        read_call(Inferred, {"steps": 5})
    with pytest.raises(UnknownInput, match=r"'num_inference_steps' is not an input\. The inputs are"):
        read_call(Inputs, {"num_inference_steps": 5})
    for name in ("prompt_embeds", "negative_prompt_embeds"):  # a pipeline without a prompt has no such value
        with pytest.raises(UnknownInput, match=f"'{name}' is not an input. The inputs are"):
            read_call(DDPMPipeline.Inputs, {name: 0})
    assert instead_of("promt", {"prompt": None}) == ""


def test_a_word_that_is_a_little_like_a_keyword_is_not_taken_for_it():
    assert instead_of("images", {"seed": None}) == "" != instead_of("sigma", {"seed": None})
    assert instead_of("mask", {"mask_image": None}) == "write mask_image="
    assert instead_of("mask_image", {"mask": None}) == "write mask="
    assert instead_of("mask", {"seed": None}) == ""


def test_several_are_all_named():
    with pytest.raises(UnknownInput, match=r"'eta' is not an input; .*'stepz' is not an input; did you mean 'steps'"):
        read_call(Stepped, {"eta": 0.0, "stepz": 3})


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_the_messages_name_exists(pipeline):
    wires = set(pipeline.graph.wires)
    for name, said in OTHERS.items():
        for wire in re.findall(r'given=\{"(\w+)"', said):
            assert wire in wires, name
        for outputs in re.findall(r"outputs=(\(.*?\))", said):
            assert set(ast.literal_eval(outputs)) <= wires, name
        for method in re.findall(r"pipe\.(\w+)\(", said):
            assert callable(getattr(pipeline, method)), name
