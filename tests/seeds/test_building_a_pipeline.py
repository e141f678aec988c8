"""The code of the first document, run after the edits that `docs/seeds.md` lists."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import calotype
from calotype import DiffusionPipeline
from calotype.compat.diffsynth import ModelConfig
from calotype.errors import ComponentError, ComponentNotLoaded, GraphError
from seeds.building_a_pipeline import NewDiffSynthPipeline, QwenImageUnit_EntityControl
from seeds.edits import listed, made, printed

EMOJI = Path(calotype.__file__).parent / "assets" / "emoji-64"
SMALL = {"height": 64, "width": 64}


# -- the edits ---------------------------------------------------------------------------------------------------------


def test_the_program_is_what_the_document_prints_but_for_the_listed_edits():
    edits = made(printed("building-a-pipeline.md", blocks=7), "building_a_pipeline.py")
    assert edits == listed("The first document")


# -- the program -------------------------------------------------------------------------------------------------------


def load(fields=None, **options):
    networks = ("text_encoder", "transformer", "vae")
    return NewDiffSynthPipeline.from_pretrained(
        **{"torch_dtype": torch.float32, "device": "cpu", **options},
        model_configs=[ModelConfig(path=str(EMOJI / name), **fields or {}) for name in networks],
        tokenizer_config=ModelConfig(path=str(EMOJI / "tokenizer")),
    )


@pytest.fixture(scope="module")
def pipe():
    return load()


@pytest.fixture(scope="module")
def apple(pipe):
    return pipe("a red apple", seed=7, cfg_scale=3.0, progress_bar_cmd=list, **SMALL)


def colour(picture):
    """The mean red, green and blue of the middle."""
    return np.asarray(picture)[16:48, 16:48].reshape(-1, 3).mean(axis=0)


def distance(one, other):
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def test_it_draws_what_it_is_asked_for(pipe, apple):
    green = pipe("a green apple", seed=7, cfg_scale=3.0, num_inference_steps=12, **SMALL)
    assert apple.size == green.size == (64, 64)
    assert colour(apple)[0] > colour(apple)[1] + 80 and colour(green)[1] > colour(green)[0] + 40


def test_it_draws_what_calotypes_own_pipeline_draws(pipe, apple):
    own = DiffusionPipeline.from_pretrained("calotype/emoji-64", scheduler=pipe.scheduler)
    inputs = {"prompt": "a red apple", "seed": 7, "steps": 30}
    assert distance(own(guidance_scale=3.0, **inputs).image, apple) <= 1
    assert distance(own(guidance_scale=5.0, **inputs).image, apple) > 8


def test_its_latents_are_those_of_calotypes_own_pipeline(pipe):
    own = DiffusionPipeline.from_pretrained("calotype/emoji-64", scheduler=pipe.scheduler)
    wanted = own(prompt="a fish", negative_prompt="blue", seed=2, steps=8, outputs=("latents",)).latents
    inputs = {"prompt": "a fish", "negative_prompt": "blue", "seed": 2, "cfg_scale": 3.0, "num_inference_steps": 8}
    found = pipe.engine(**inputs, **SMALL).latents
    assert torch.allclose(found, wanted, atol=1e-5)
    assert distance(pipe.vae_output_to_image(pipe.vae.decode(wanted)), pipe(**inputs, **SMALL)) <= 1


def test_a_picture_is_where_the_loop_starts(pipe, apple):
    inputs = {"seed": 3, "cfg_scale": 3.0, "num_inference_steps": 8, **SMALL}
    near = pipe("a green apple", input_image=apple, denoising_strength=0.2, **inputs)
    far = pipe("a green apple", input_image=apple, denoising_strength=0.95, **inputs)
    change = [np.abs(np.asarray(p).astype(int) - np.asarray(apple)).mean() for p in (near, far)]
    assert change[0] < 10 < change[1]
    assert colour(near)[0] > colour(near)[1] + 60 and colour(far)[1] > colour(far)[0]


def test_it_runs_in_the_type_that_the_document_prints(apple):
    half = load(torch_dtype=torch.bfloat16)("a red apple", seed=7, cfg_scale=3.0, num_inference_steps=6, **SMALL)
    assert colour(half)[0] > colour(half)[1] + 80 and distance(half, apple) > 0


def test_entities_are_encoded_for_their_part_of_the_latents(pipe):
    unit = QwenImageUnit_EntityControl()
    asked = {"eligen_entity_prompts": ["a cat", "a dog"], "eligen_enable_on_negative": False, "cfg_scale": 4.0, **SMALL}
    _, posi, nega = pipe.unit_runner(unit, pipe, asked, {"prompt": "a cat and a dog"}, {})
    assert [e.shape for e in posi["entity_prompt_emb"]] == [(1, 19, 192)] * 2 and not nega
    left, right = posi["entity_masks"]
    assert left.sum() == right.sum() == 32 and not (left & right).any()
    _, _, nega = pipe.unit_runner(unit, pipe, {**asked, "eligen_enable_on_negative": True}, {}, {})
    assert len(nega["entity_prompt_emb_mask"]) == 2


def test_its_units_are_units_of_the_graph(pipe):
    plan = pipe.plan(prompt="a red apple", **SMALL)
    names = ["set_timesteps", "QwenImageUnit_NoiseInitializer", "QwenImageUnit_PromptEmbedder", "InputImageEmbedder"]
    assert [n.name for n in plan.nodes] == [*names, "model_fn_new"]
    assert plan.pruned == ("QwenImageUnit_EntityControl",)  # model_fn_new does not touch its keywords
    assert plan.components == ("scheduler", "text_encoder", "vae", "dit")
    split = pipe.split(["dit"])
    assert "QwenImageUnit_PromptEmbedder" in split.cached and "prompt_emb" in split.wires
    assert "text_encoder" not in split.components
    assert "QwenImageUnit_EntityControl [text_encoder]" in re.sub(" +", " ", pipe.draw())


def test_threads_share_it(pipe):
    asked = [("a cat", 1, 3), ("a dog", 2, 5), ("a fish", 3, 4)]

    def draw(prompt, seed, steps):
        return pipe(prompt, seed=seed, num_inference_steps=steps, progress_bar_cmd=list, **SMALL)

    alone, found = [draw(*a) for a in asked], {}
    threads = [threading.Thread(target=lambda a=a: found.update({a: draw(*a)})) for a in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(distance(found[a], picture) == 0 for a, picture in zip(asked, alone, strict=True))


def test_a_vram_limit_is_kept_at_the_units():
    limited = load(vram_limit=1)
    assert limited.vram_management_enabled and not load().vram_management_enabled
    assert limited("a cat", seed=1, num_inference_steps=1, **SMALL).size == (64, 64)
    streamed = load(vram_limit=0.01)  # less than dit's 11.7 MiB, which are read from its file group by group
    wanted = load()("a cat", seed=1, num_inference_steps=2, **SMALL)
    disk = {f"{stage}_{what}": "disk" for stage in ("offload", "onload") for what in ("device", "dtype")}
    from_disk = load(fields={**disk, "preparing_device": "cpu"}, vram_limit=0.01)
    for pipe in (streamed, limited, from_disk):
        assert distance(pipe("a cat", seed=1, num_inference_steps=2, **SMALL), wanted) == 0
    with pytest.raises(ComponentError, match=r"PromptEmbedder: text_encoder must be on cpu together and take 8\.8 MiB"):
        load(vram_limit=0.008)("a cat", seed=1, num_inference_steps=1, **SMALL)


def test_what_is_not_loaded_or_misdeclared_is_an_error():
    bare = NewDiffSynthPipeline(device="cpu")
    with pytest.raises(ComponentNotLoaded, match=r"QwenImageUnit_PromptEmbedder needs 'text_encoder' \(because prompt"):
        bare("a cat", seed=1, **SMALL)
    bare.in_iteration_models = ("dit", "vae")
    with pytest.raises(GraphError, match="names 'vae', which model_fn_new does not take"):
        bare("a cat", seed=1, **SMALL)
