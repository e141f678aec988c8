"""Two small networks, and a catalogue of them alone."""

import pytest
import torch

from calotype.weights.pool.catalogue import Catalogue
from pool_files import Dit, Vae, dit_config


@pytest.fixture
def dit() -> Dit:
    torch.manual_seed(0)
    return Dit(width=6, depth=3)


@pytest.fixture
def vae() -> Vae:
    torch.manual_seed(1)
    return Vae()


@pytest.fixture
def own() -> Catalogue:
    """A catalogue of the two networks alone."""
    known = Catalogue().with_model("xxx_dit", Dit, keys=("embed.weight", r"blocks\.\d+\.weight"), config=dit_config)
    return known.with_model("xxx_vae", Vae)
