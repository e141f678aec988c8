"""The embedded model with a third of its blocks: the same kinds of layers, and groups that stream, in less time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calotype import MiniTransformer2DModel, TextToImagePipeline

Load = Callable[..., TextToImagePipeline]


@pytest.fixture(scope="session")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with it."""
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    network = MiniTransformer2DModel(**{**pipe.transformer.config.model_dump(), "num_layers": 2})
    state = pipe.transformer.state_dict()
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    folder = tmp_path_factory.mktemp("shorter")
    TextToImagePipeline(**{**pipe.components, "transformer": network}).save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(shorter: Path) -> Load:
    """Loads it, or another folder; each call computes everything."""

    def load(source: Path = shorter, **options: Any) -> TextToImagePipeline:
        return TextToImagePipeline.from_pretrained(source, device="cpu", memo=0, **options)

    return load
