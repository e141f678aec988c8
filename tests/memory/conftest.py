"""What tests of networks that stream begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memory_fakes import stored


@pytest.fixture
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def fine_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is a group, however small."""
    monkeypatch.setattr("calotype.memory.tiers._FINEST", 1024)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the weights of a `Stack`."""
    return stored(tmp_path / "stack.safetensors")
