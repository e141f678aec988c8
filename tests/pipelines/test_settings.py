"""Plain values that an index holds beside the components, declared like components."""

import json
from pathlib import Path

import pytest
import torch

from calotype.errors import ComponentError
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline


@unit
def told(*, doubled: bool, factor: float) -> float:
    return 2 * factor if doubled else factor


class Telling(DiffusionPipeline):
    doubled: bool = True
    factor: float = 1.5
    scale: torch.nn.Module | None = None

    units = (told,)


def written(folder: Path, **extras: object) -> Path:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Telling", **extras}))
    return folder


def test_units_take_settings_like_components() -> None:
    assert Telling()().told == 3.0
    assert Telling(doubled=False)().told == 1.5


def test_the_index_of_a_repository_sets_them(tmp_path: Path) -> None:
    pipe = Telling.from_pretrained(written(tmp_path, doubled=False))
    assert pipe().told == 1.5
    assert Telling.from_pretrained(tmp_path, doubled=True)().told == 3.0
    assert Telling.from_pretrained(tmp_path, only=["scale"])().told == 1.5


def test_they_are_saved_in_the_index(tmp_path: Path) -> None:
    Telling(factor=2.0).save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert (index["doubled"], index["factor"]) == (True, 2.0)
    assert Telling.from_pretrained(tmp_path / "saved")().told == 4.0


def test_a_setting_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"Telling.doubled must be bool, got str"):
        Telling.from_pretrained(written(tmp_path, doubled="yes"))
