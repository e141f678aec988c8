"""The pack that weighs words, on the real model."""

from typing import Any

import numpy as np
import pytest
import torch

from calotype import DiffusionPipeline
from calotype.community.emphasis import word_weights
from calotype.errors import InputError, UnusedInput


@pytest.fixture(scope="module")
def plain() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64")


@pytest.fixture(scope="module")
def pipe(plain: Any) -> Any:
    return plain.with_units("emphasis", after="prompt_embeds")


def pixels(result: Any) -> np.ndarray:
    return np.array(result.image.convert("RGB")).astype(float)


def test_a_weight_of_one_and_no_weight_change_nothing(plain: Any, pipe: Any) -> None:
    call = {"prompt": "a fox on a blue background", "seed": 3, "steps": 8}
    wanted = pixels(plain(**call))
    for emphasis in ({}, {"emphasis": "blue:1"}, {"emphasis": "blue:1, fox:1.0", "negative_emphasis": ""}):
        assert np.array_equal(pixels(pipe(**call, **emphasis)), wanted)


def test_more_of_a_colour_is_more_of_it_in_the_picture(pipe: Any) -> None:
    """The blue of the background spreads over the fox; without any, the background is not blue."""

    def blue(weight: float) -> float:
        picture = pixels(pipe(prompt="a fox on a blue background", emphasis=f"blue:{weight}", seed=3, steps=10))
        return float((picture[..., 2] - picture[..., 0]).mean())

    none, half, full, fourfold = (blue(weight) for weight in (0, 0.5, 1, 4))
    assert none < half < full < fourfold
    assert full - none > 30 and fourfold - full > 15


def test_a_word_of_no_weight_is_not_drawn(pipe: Any) -> None:
    """Without its colour, a purple cat is an orange one."""
    purple = pixels(pipe(prompt="a purple cat", seed=3, steps=10)).mean((0, 1))
    without = pixels(pipe(prompt="a purple cat", emphasis="purple:0", seed=3, steps=10)).mean((0, 1))
    assert purple[2] > purple[1] + 30 and without[1] > without[2] + 30


def test_the_negative_prompt_has_its_own(pipe: Any) -> None:
    call = {
        "prompt": "a red apple",
        "negative_prompt": "green",
        "seed": 1,
        "steps": 1,
        "outputs": ("pooled_embeds", "latents"),
    }
    before = pipe(**call).pooled_embeds
    after = pipe(**call, emphasis="red:2", negative_emphasis="green:2").pooled_embeds
    assert not torch.equal(before["positive"], after["positive"])
    assert not torch.equal(before["negative"], after["negative"])
    positive_alone = pipe(**call, emphasis="red:2").pooled_embeds
    assert torch.equal(positive_alone["positive"], after["positive"])
    assert torch.equal(positive_alone["negative"], before["negative"])


@pytest.mark.parametrize(
    ("emphasis", "message"),
    [
        ("aple:2", r"'aple' is not a word of the prompt 'a red apple'; did you mean 'apple'\?"),
        ("red", "must be word:number with numbers from 0 to 4, such as 'red:1.5', got 'red'"),
        ("red:-1", "got 'red:-1'"),
        ("red:5", "got 'red:5'"),
        ("red:nan", "got 'red:nan'"),
        ("red:much", "got 'red:much'"),
    ],
)
def test_wrong_weights(pipe: Any, emphasis: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(prompt="a red apple", emphasis=emphasis, steps=1, seed=0)


def test_how_weights_are_written() -> None:
    assert word_weights(" Red:1.5 ,apple: 0,") == {"red": 1.5, "apple": 0.0} and word_weights("") == {}


def test_emphasis_that_nothing_reads_is_an_error(pipe: Any) -> None:
    with pytest.raises(UnusedInput, match="emphasis"):
        pipe(prompt="a red apple", emphasis="red:2", seed=0, outputs=("noise",))
