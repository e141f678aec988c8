"""The example of a ControlNet in small: four pictures, few steps."""

from pathlib import Path

import numpy as np
from PIL import Image
from recipes.edges import HELD_OUT, LABEL, OTHERS, SIDE, agreement, compare, edges, learned, make_pictures, train

from calotype import QwenImageBlockwiseControlNetModel, TextToImagePipeline
from calotype.pipelines.text_to_image import control, new_controlnet
from calotype.training.log import read_table


def square(*box: int) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste("red", box)
    return picture


def test_edges_lie_where_colours_change() -> None:
    lines = np.asarray(edges(square(16, 20, 48, 44)).convert("L")) > 127
    inside = np.zeros((SIDE, SIDE), bool)
    inside[18:46, 14:50] = True
    inside[23:41, 19:45] = False
    assert lines[inside].mean() > 0.3 and not lines[~inside].any()
    assert lines[32, 14:18].any() and lines[32, 46:50].any()


def test_agreement_is_of_places() -> None:
    wanted = edges(square(16, 16, 48, 48))
    assert agreement(square(16, 16, 48, 48), wanted) == 1.0
    assert agreement(square(17, 17, 49, 49), wanted) > 0.9
    assert agreement(square(4, 4, 12, 12), wanted) < 0.2


def test_what_is_shown_was_not_learned() -> None:
    names = {thing.split(" ", 1)[1] for thing in learned()}
    assert len(names) > 250 and len(OTHERS) == len(HELD_OUT)
    assert not names & {thing.split(" ", 1)[1] for thing in HELD_OUT}


def test_a_network_learns_to_follow(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    make_pictures(pipe, tmp_path / "pictures", learned()[:4], seeds=1)
    result = train(pipe, tmp_path / "pictures", tmp_path / "run", steps=40)
    losses = [float(row["loss"]) for row in read_table(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    network = QwenImageBlockwiseControlNetModel.from_pretrained(result.files[0])
    lines = tmp_path / "pictures" / "0000-0-edges.png"
    controlled = pipe.with_units(control(), controlnet=network)
    call = {"prompt": learned()[0], "seed": 50, "steps": 8}
    wanted = Image.open(lines)
    assert agreement(controlled(**call, control_image=lines).image, wanted) > agreement(pipe(**call).image, wanted)


def test_the_sheet_has_a_row_for_each_way() -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    picture, means = compare(pipe, new_controlnet(pipe.transformer), count=1)
    assert picture.size == (LABEL + SIDE, 4 * SIDE)
    assert means[0] == means[1]  # a new network changes nothing
