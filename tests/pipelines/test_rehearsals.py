"""What is remembered of rehearsals: the loop is not rehearsed again for other words that have the same shapes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from calotype import Denoise, TextToImagePipeline
from calotype.graph.unit import unit
from calotype.pipelines import prediction
from calotype.pipelines.pictures import Picture, to_picture
from stubs import Encoder, Net, TextInputs, TextToImage, define, latents, noise, sigmas, velocity


@unit
def embeds(prompt: str, *, encoder: Encoder) -> Tensor:
    """One row for each word."""
    return encoder.weight * torch.ones(1, 1 + len(prompt.split()), 4, device=encoder.weight.device)


@unit
def letters(prompt: str) -> Tensor:
    """A number that is known while tensors are only imagined, too."""
    return torch.tensor([len(prompt)])


@unit
def image(latents: Tensor, letters: Tensor) -> Picture:
    return to_picture(latents + torch.zeros(100 * int(letters), *latents.shape[1:]).sum(0))


Words: Any = define(
    embeds, letters, noise, sigmas, latents, Denoise(velocity), image, inputs=TextInputs, name="Words",
    encoder=Encoder, net=Net, scheduler=Any,
)  # fmt: skip


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of a loop whenever one is rehearsed."""
    found: list[str] = []
    rehearse_loop = prediction._rehearse_loop

    def noted(node: Any, *args: Any) -> Any:
        found.append(node.name)
        return rehearse_loop(node, *args)

    monkeypatch.setattr(prediction, "_rehearse_loop", noted)
    return found


def words() -> Any:
    return Words(encoder=Encoder(), net=Net(), scheduler=TextToImage.scheduler, device="cpu", memory="1GiB")


@pytest.mark.parametrize(
    ("call", "again"),
    [
        ({"prompt": "a cat"}, False),
        ({"prompt": "a dog", "seed": 9}, False),
        ({"prompt": ["a cat", "a dog"]}, True),
        ({"prompt": "a large"}, True),  # as many words, but the picture is made of more letters
        ({"prompt": "a c t"}, True),  # as many letters, but more words
        ({"prompt": "a cat", "negative_prompt": "a dog"}, True),
        ({"prompt": "a cat", "guidance_scale": 1.0}, True),
        ({"prompt": "a cat", "num_images": 2}, True),
        ({"prompt": "a cat", "outputs": ["latents"]}, True),
    ],
)
def test_a_loop_is_rehearsed_again_where_something_may_be_other(
    loops: list[str], call: dict[str, Any], again: bool
) -> None:
    pipe = words()
    pipe.plan(prompt="a cow", seed=1)
    loops.clear()
    found = pipe.plan(**call)
    assert loops == ["denoise"] * again
    new = words().plan(**call)
    assert found.computed == new.computed and found.computed is not None and found.passes == new.passes


def test_other_components_are_rehearsed_again(loops: list[str]) -> None:
    pipe = words()
    pipe.plan(prompt="a cow", seed=1)
    pipe.net = Net()
    pipe.plan(prompt="a dog", seed=1)
    assert loops == ["denoise"] * 2


def test_the_embedded_model_rehearses_its_loop_once_for_all_prompts(loops: list[str]) -> None:
    def load() -> Any:
        return TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memory="10MiB", memo=0)

    pipe = load()
    plans = [pipe.plan(prompt=p, seed=n, steps=3) for n, p in enumerate(("a cat", "a red dog", "two blue stars"))]
    assert loops == ["denoise"]
    new = load().plan(prompt="two blue stars", seed=7, steps=3)
    assert plans[2].computed == new.computed and plans[2].passes == new.passes and plans[2].moved == new.moved


def test_another_device_is_rehearsed_again(loops: list[str]) -> None:
    pipe = words()
    pipe.plan(prompt="a cow", seed=1)
    pipe.to("cpu")
    pipe.plan(prompt="a cow", seed=1)
    assert loops == ["denoise"] * 2


def test_what_is_asked_for_often_stays_known(loops: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "REMEMBERED", 3)
    pipe = words()
    for letter in "abcdef":
        pipe.plan(prompt=letter, seed=1)
    assert loops == ["denoise"] and len(pipe._residency.rehearsed) == 3
