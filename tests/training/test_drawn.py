"""Rows that are drawn when a step asks for them, and rows whose values are there already."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calotype.errors import ConfigError, InputError, TrainingError
from calotype.training import Drawn, DrawnRows, Row, Trainer
from calotype.training.facts import digest
from calotype.training.log import read_table
from calotype.training.rows import as_rows
from training.runs import FULL, same, saved, weights
from training.small import color, rows, small


def square(draw: np.random.Generator) -> dict[str, Any]:
    """A row of one colour."""
    red, green, blue = draw.integers(0, 256, 3).tolist()
    return {"prompt": f"colour {red // 64}", "image": color(red, green, blue)}


def drawn(seed: int = 0) -> Drawn:
    return Drawn(square, "squares", seed)


class Counted(DrawnRows):
    """Rows that remember which of them were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    @property
    def known_by(self) -> str:
        return "counted"

    def __getitem__(self, number: int) -> Row:
        self.asked.append(number)
        return Row(f"row {number}", square(np.random.default_rng(number)))

    def example(self) -> Row:
        return Row("example", {"prompt": "any", "image": color(0, 0, 0)})


def test_a_row_follows_from_the_seed_and_its_number() -> None:
    first, again, other = drawn()[5], drawn()[5], drawn(seed=1)[5]
    assert first.inputs["image"].tobytes() == again.inputs["image"].tobytes()
    assert first.inputs["image"].tobytes() != other.inputs["image"].tobytes()
    assert first.inputs["image"].tobytes() != drawn()[6].inputs["image"].tobytes()
    assert first.name == "row 5"


def test_every_step_has_the_rows_that_come_next(tmp_path: Path) -> None:
    data = Counted()
    Trainer(small(), data, tmp_path, steps=3, batch=2, accumulate=2, **FULL).train(progress=False)
    assert data.asked == list(range(12))


def test_a_run_on_drawn_rows_that_was_stopped_ends_with_the_same_numbers(tmp_path: Path) -> None:
    settings = {**FULL, "batch": 2, "average": 0.9, "dropout": {"prompt": 0.5}, "checkpoint_every": 2}
    Trainer(small(), drawn(), tmp_path / "whole", steps=6, **settings).train(progress=False)
    Trainer(small(), drawn(), tmp_path / "parts", steps=4, **settings).train(progress=False)
    Trainer(small(), drawn(), tmp_path / "parts", steps=6, **settings).train(resume=True, progress=False)
    assert same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))


def test_other_drawn_rows_are_another_run(tmp_path: Path) -> None:
    Trainer(small(), drawn(), tmp_path, steps=1, **FULL).train(progress=False)
    with pytest.raises(TrainingError, match="data was 'squares, seed 0', is 'squares, seed 1'"):
        Trainer(small(), drawn(seed=1), tmp_path, steps=2, **FULL).train(resume=True, progress=False)


def test_what_is_drawn_must_be_a_row() -> None:
    with pytest.raises(InputError, match="row 3 must be a mapping of inputs or a Row, got int"):
        Drawn(lambda draw: 7, "numbers")[3]  # type: ignore[arg-type,return-value]
    row = Row("own", {})
    assert Drawn(lambda draw: row, "own")[0] is row


def test_drawn_rows_have_no_end_to_keep_or_to_share(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache: rows that are drawn do not come again"):
        Trainer(small(), drawn(), tmp_path, steps=1, cache="cache", **FULL)
    with pytest.raises(ConfigError, match="have no end to take a share of; give held_out="):
        Trainer(small(), drawn(), tmp_path, steps=1, validation={"held_out": 0.1}, **FULL)
    with pytest.raises(ConfigError, match="leave one out"):
        Trainer(small(), rows(), tmp_path, held_out=rows(1), steps=1, validation={"held_out": 0.5}, **FULL)


@pytest.mark.parametrize("data", [drawn(), rows()], ids=["drawn", "listed"])
def test_rows_that_are_held_out_can_be_given_apart(tmp_path: Path, data: Any) -> None:
    trainer = Trainer(small(), data, tmp_path, held_out=rows(3), steps=2, validation={"every": 1, "rows": 2}, **FULL)
    assert len(trainer.held_out) == 2
    trainer.train(progress=False)
    losses = [float(row["held_out"]) for row in read_table(tmp_path)]
    assert len(losses) == 2
    assert losses[0] != losses[1]


def given_rows(pipe: Any) -> list[Row]:
    """The rows with the pictures' values in place of the pictures."""
    return [
        Row(f"row {n}", {"prompt": row["prompt"]}, given={"image_latents": pipe.units[2](row["image"], 8)})
        for n, row in enumerate(rows())
    ]


def test_given_values_take_the_place_of_what_units_would_make(tmp_path: Path) -> None:
    found = []
    for name, data in (("pictures", rows()), ("values", given_rows(small()))):
        pipe = small()
        Trainer(pipe, data, tmp_path / name, steps=3, batch=2, **FULL).train(progress=False)
        found.append(weights(pipe))
    assert same(*found)


def test_given_values_go_with_a_cache_of_the_others(tmp_path: Path) -> None:
    found = []
    for cache in (None, "cache"):
        pipe = small()
        Trainer(pipe, given_rows(pipe), tmp_path / str(cache), steps=3, cache=cache, **FULL).train(progress=False)
        found.append(weights(pipe))
    assert same(*found)


def test_given_values_are_what_a_data_set_is_known_by() -> None:
    row = Row("a", {"prompt": "b"}, given={"image_latents": torch.zeros(1, 3, 8, 8)})
    other = Row("a", {"prompt": "b"}, given={"image_latents": torch.ones(1, 3, 8, 8)})
    assert len({digest(as_rows([one])) for one in (row, other, Row("a", {"prompt": "b"}))}) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_latent": torch.zeros(1, 3, 8, 8)}, "row a: .*makes no 'image_latent'; did you mean 'image_latents'"),
        ({"prompt": "b"}, "row a: .*'prompt' is an input"),
        ({"image_latents": 3}, "row a: given: 'image_latents' must be .*, got int"),
    ],
)
def test_wrong_given_values_are_refused_before_the_first_step(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trainer(small(), [Row("row a", {"prompt": "b"}, given=given)], tmp_path, steps=1, **FULL).train(progress=False)
