"""The example of a style in small: four pictures, few steps."""

from pathlib import Path

import numpy as np
from PIL import Image
from recipes.blueprint_lora import LABEL, LEARNED, PAPER, SHOWN, SIDE, blueprint, make_pictures, sheet, train

from calotype import TextToImagePipeline
from calotype.training.log import read_table


def test_a_drawing_is_lines_on_paper() -> None:
    disc = Image.new("RGB", (SIDE, SIDE), "white")
    disc.paste("black", (16, 16, 48, 48))
    drawn = np.asarray(blueprint(disc), dtype=np.float64)
    assert drawn.shape == (SIDE, SIDE, 3)
    for place in ((3, 3), (32, 32)):  # outside, and inside of the square
        assert np.abs(drawn[place] - PAPER).max() < 12
    assert drawn[32, 10:22].min(1).max() > 150  # its left edge


def test_what_is_shown_was_not_learned() -> None:
    assert len(LEARNED) == 20 and not set(SHOWN) & set(LEARNED)


def test_the_style_is_learned_from_few_pictures(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    make_pictures(pipe, tmp_path / "pictures", LEARNED[:4])
    result = train(pipe, tmp_path / "pictures", tmp_path / "run", steps=40)
    losses = [float(row["loss"]) for row in read_table(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    drawn = np.asarray(sheet(pipe, result.files[0], SHOWN[7:]), dtype=np.float64)[:, LABEL:]
    before, after = drawn[:SIDE], drawn[SIDE:]
    assert before[2:6, 2:6].min() > 230  # white paper
    red, _, blue = after[2:6, 2:6].mean((0, 1))
    assert red < 150 and blue > red + 30
