"""Files and folders of whole pipelines, made once."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from original_files import leftovers
from single_files import FAMILIES, WIDTHS, published, save


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory) -> tuple[Any, Any, Path, Path]:
    """Our class, the reference's pipeline, its folder, and the same in one original file."""
    ours, make = FAMILIES[request.param]
    pipe, state = make()
    folder = tmp_path_factory.mktemp("checkpoint")
    pipe.save_pretrained(folder / "repository")
    return ours, pipe, folder / "repository", save({**state, **leftovers(state)}, folder / "model.safetensors")


@pytest.fixture(scope="session")
def families(tmp_path_factory) -> dict[int, tuple[dict[str, Any], dict[str, Tensor], Path]]:
    """Of each family, by the width of its text: networks with the settings that were published, and their file."""
    folder = tmp_path_factory.mktemp("families")
    made = {width: published(width, **fields) for width, (_, fields, _) in WIDTHS.items()}
    return {w: (parts, state, save(state, folder / f"{w}.safetensors")) for w, (parts, state) in made.items()}
