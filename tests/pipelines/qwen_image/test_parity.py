"""Whole pipelines beside the reference's: the same random weights, noise and noise levels, equal pixels."""

from typing import Any

import diffusers
import pytest
import torch

from calotype.pipelines.qwen_image.pipeline import QwenImagePipeline
from tiny_qwen import SEED, TOLERANCE, parts, pixels_of, quiet, with_weights_of

WORDS = {"prompt": "a red cat", "negative_prompt": "blue, very dark"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's pipeline from a prompt, and ours with its weights."""
    components = parts()
    ours = with_weights_of(QwenImagePipeline, components, tmp_path_factory.mktemp("qwen"))
    return quiet(diffusers.QwenImagePipeline(**components)), ours


@pytest.mark.parametrize(
    ("inputs", "steps"),
    [
        ({**WORDS, "true_cfg_scale": 4.0}, 3),
        ({"prompt": "a red cat", "true_cfg_scale": 1.0}, 2),
        ({**WORDS, "true_cfg_scale": 2.0, "width": 96}, 5),
    ],
    ids=["guided", "unguided", "another size"],
)
def test_text_to_image(inputs: dict[str, Any], steps: int, pair: tuple[Any, Any]) -> None:
    reference, pipe = pair
    inputs = {"height": 48, "width": 64, "num_inference_steps": steps, **inputs}
    wanted = pixels_of(reference, **inputs)
    found = pipe(seed=SEED, outputs=["pixels"], **inputs).pixels
    assert torch.allclose(found, wanted, atol=TOLERANCE), (found - wanted).abs().max()
