"""Pipelines to insert packs in: the embedded model, and Stable Diffusion's with random weights."""

from typing import Any

import diffusers
import pytest
from PIL import Image

from calotype import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from tiny_sd import reference_pipeline, reference_xl, with_weights_of


@pytest.fixture(scope="session")
def emoji() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64")


@pytest.fixture(scope="session")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    return with_weights_of(StableDiffusionPipeline, reference, tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    reference = reference_xl(diffusers.StableDiffusionXLPipeline)
    return with_weights_of(StableDiffusionXLPipeline, reference, tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="session")
def apple(emoji: Any) -> Image.Image:
    return emoji(prompt="a red apple", seed=7, steps=12).image
