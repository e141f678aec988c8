"""Digests tell components apart by weights, configuration and vocabulary."""

import pytest
import torch
from PIL import Image
from torch import nn

from calotype import MiniAutoencoderKL, TextToImagePipeline, WordTokenizer
from calotype.pipelines.generations import Generations
from calotype.pipelines.replay import provenance
from calotype.pipelines.replay.provenance import Digests

SMALL = {"block_out_channels": (4, 4, 4), "detail_channels": 4, "latent_channels": 2}


def digest_of(component: object) -> str:
    return Digests(Generations()).of("part", component)


def test_equal_components_have_equal_digests() -> None:
    one = MiniAutoencoderKL(**SMALL)
    other = MiniAutoencoderKL(**SMALL)
    assert digest_of(one) != digest_of(other)
    other.load_state_dict(one.state_dict())
    assert digest_of(one) == digest_of(other)


def test_configuration_and_vocabulary_count() -> None:
    one = MiniAutoencoderKL(**SMALL)
    other = MiniAutoencoderKL(**SMALL, latents_mean=(0.5, 0.5))
    other.load_state_dict(one.state_dict())
    assert digest_of(one) != digest_of(other)
    assert digest_of(WordTokenizer(["a", "cat"])) != digest_of(WordTokenizer(["a", "dog"]))
    assert digest_of(WordTokenizer(["a"])) == digest_of(WordTokenizer(["a"]))


def test_a_digest_is_made_anew_when_weights_change() -> None:
    digests, layer = Digests(Generations()), nn.Linear(2, 2)
    before = digests.of("layer", layer)
    assert digests.of("layer", layer) == before
    with torch.no_grad():
        layer.weight.add_(1)
    assert digests.of("layer", layer) != before


def test_large_weights_are_digested_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "WHOLE", 100)
    monkeypatch.setattr(provenance, "SAMPLE", 2)
    layer = nn.Linear(8, 8)
    before = digest_of(layer)
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert digest_of(layer) != before


def test_an_input_too_large_for_the_file_is_named_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    picture = Image.effect_noise((64, 64), 50).convert("RGB")
    call = {"prompt": "a red apple", "image": picture, "steps": 1, "strength": 0.5, "seed": 1}
    assert pipe(**call).recipe.inputs["image"].startswith("data:image/png;base64,")
    monkeypatch.setattr(provenance, "CARRIED", 1000)
    recipe = pipe(**call).recipe
    assert recipe.given == ("image",)
    assert "image" not in recipe.inputs and recipe.inputs["prompt"] == "a red apple"
