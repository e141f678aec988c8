"""What is remembered of rehearsals: the loop is not rehearsed again for other words that have the same shapes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype import Denoise, Inputs, TextToImagePipeline
from calotype.errors import InputError
from calotype.graph.unit import unit
from calotype.nn.beside import running_beside
from calotype.pipelines.memory import prediction
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


# -- networks ----------------------------------------------------------------------------------------------------------


def test_a_network_is_rehearsed_once_for_all_values_of_the_same_shapes() -> None:
    def load() -> Any:
        return TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memory="10MiB", memo=0)

    pipe, calls = load(), []
    pipe.text_encoder.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    pipe.plan(prompt="a cat", seed=1, steps=3)
    assert len(calls) == 2, "once for each branch: what is passed through before is another"
    found = [pipe.plan(prompt=p, seed=1, steps=3) for p in ("a red dog", "two blue stars")][-1]
    assert len(calls) == 2
    new = load().plan(prompt="two blue stars", seed=7, steps=3)
    assert found.computed == new.computed and found.passes == new.passes and found.moved == new.moved
    pipe(prompt="two blue stars", seed=7, steps=1)
    assert len(calls) == 4, "the call itself computes"


class Reader(nn.Module):
    """Gives as many rows as the number that it is shown, and a view, and what it was given."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.weight, self.looks = nn.Parameter(torch.ones(1)), looks
        self.log: list[int] = []

    def forward(self, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.log.append(1)
        rows = self.weight * torch.ones(100 * int(count) if self.looks else 100, 4)
        return rows, rows[:1], count


@unit
def read(letters: Tensor, *, reader: Reader) -> Picture:
    rows, first, count = reader(letters)
    assert rows.shape[0] == (100 * int(letters) if reader.looks else 100) and first.shape == (1, 4) and count is letters
    more = torch.zeros(len(rows), 50) + rows[:, :1]
    return to_picture(more.sum(0).view(1, 1, 5, 10) + first.sum())


class OnlyWords(Inputs):
    prompt: str


Reads: Any = define(letters, read, inputs=OnlyWords, name="Reads", reader=Reader)


@pytest.mark.parametrize("looks", [False, True])
def test_a_network_that_looks_at_numbers_is_rehearsed_for_each(looks: bool) -> None:
    def computed(pipe: Any, prompt: str) -> Any:
        return pipe.plan(prompt=prompt).computed

    def pipe() -> Any:
        return Reads(reader=Reader(looks), device="cpu", memory="1GiB")

    one = pipe()
    found = [computed(one, prompt) for prompt in ("a", "aaaa", "aaaaaaaa")]
    assert found == [computed(pipe(), prompt) for prompt in ("a", "aaaa", "aaaaaaaa")]
    assert (len(set(found)) == 3) is looks and len(one.reader.log) == (3 if looks else 1)


class Writer(nn.Module):
    """A network that writes, around the one that reads."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Reader(looks=False)


@unit
def read_alone(letters: Tensor, *, writer: Writer) -> Picture:
    assert isinstance(writer.model, Reader) and writer.model.weight.shape == (1,)
    return read(letters, reader=writer.model)


ReadsAlone: Any = define(letters, read_alone, inputs=OnlyWords, name="ReadsAlone", writer=Writer)


def test_a_network_within_another_is_rehearsed_once_too() -> None:
    """As of the text encoder of Qwen-Image the one that does not write."""
    pipe = ReadsAlone(writer=Writer(), device="cpu", memory="1GiB")
    plans = [pipe.plan(prompt=prompt) for prompt in ("a", "aa", "aaa")]
    assert len(pipe.writer.model.log) == 1
    assert plans[2].computed == ReadsAlone(writer=Writer(), device="cpu", memory="1GiB").plan(prompt="aaa").computed


# -- what cannot be rehearsed ------------------------------------------------------------------------------------------


def units_that(fail: Any) -> tuple[Any, Any]:
    """Pipelines in which a unit before the last, and the last, does this with a tensor of 400 bytes."""

    @unit
    def looked(prompt: str) -> Tensor:
        made = torch.zeros(100)
        fail(made)
        return made

    @unit
    def drawn(looked: Tensor) -> Picture:
        return to_picture(looked.view(1, 1, 10, 10))

    @unit
    def at_once(prompt: str) -> Picture:
        made = torch.zeros(100)
        fail(made)
        return to_picture(made.view(1, 1, 10, 10))

    def pipe(*units: Any) -> Any:
        return define(*units, inputs=OnlyWords, name="Fails")(device="cpu", memory="1GiB")

    return pipe(looked, drawn), pipe(at_once)


LOOKS: dict[str, Any] = {
    "item": lambda x: x.sum().item(), "numpy": lambda x: x.numpy(), "shape": lambda x: x.nonzero(),
    "text": lambda x: f"{x.sum():.2f}", "storage": lambda x: bytes(x.untyped_storage()),
}  # fmt: skip


@pytest.mark.parametrize("how", LOOKS)
def test_a_unit_may_look_at_numbers(how: str, caplog: pytest.LogCaptureFixture) -> None:
    between, last = units_that(LOOKS[how])
    assert between.plan(prompt="a").computed is None and last.plan(prompt="a").computed[0] >= 400
    assert not caplog.records
    assert last(prompt="a").at_once.size == between(prompt="a").drawn.size == (10, 10)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, KeyError])
def test_a_unit_that_fails_by_itself_is_named(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    def fail(made: Tensor) -> None:
        raise error("no such word")

    between, last = units_that(fail)
    assert between.plan(prompt="a").computed is None and last.plan(prompt="a").computed == (400,)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all(f"{error.__name__}: " in line and "no such word" in line for line in said)
    assert said[0].startswith("looked fails while it is rehearsed") and said[1].startswith("at_once fails while")
    for pipe in (between, last):
        with pytest.raises(error, match="no such word"):
            pipe(prompt="a")


def test_what_a_unit_refuses_is_refused_by_the_plan() -> None:
    def refuse(made: Tensor) -> None:
        raise InputError("prompt must not be empty")

    for pipe in units_that(refuse):
        with pytest.raises(InputError, match="prompt must not be empty"):
            pipe.plan(prompt="a")


class Hidden(nn.Module):
    """Two layers, with so many numbers between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


@unit
def through(rank: int, *, net: Hidden) -> Picture:
    change = {"first": (torch.ones(rank, 8), torch.ones(net.first.out_features, rank))}
    with running_beside(net, [(change, 1.0)] if rank else []):
        return to_picture(net(torch.ones(1, 3, 500, 8))[:, :, :1])


@unit
def layer_by_layer(rank: int, *, net: nn.Sequential) -> Picture:
    pixels = torch.ones(1, 3, 100 * len(net), 8)
    for layer in net:
        pixels = layer(pixels)
    return to_picture(net[0](pixels))


class Rank(Inputs):
    rank: int = 0


Through: Any = define(through, inputs=Rank, name="Through", net=Hidden)
ByLayer: Any = define(layer_by_layer, inputs=Rank, name="ByLayer", net=nn.Sequential)


def hidden(width: int) -> Any:
    return Through(net=Hidden(width), device="cpu", memory="1GiB")


def test_a_network_that_was_changed_is_rehearsed_again() -> None:
    pipe = hidden(8)
    narrow = pipe.plan().computed
    pipe.net = Hidden(100)
    assert pipe.plan().computed == hidden(100).plan().computed != narrow


def test_changes_of_one_call_are_rehearsed_each() -> None:
    pipe = hidden(8)
    found = [pipe.plan(rank=rank).computed for rank in (0, 1, 64, 0)]
    assert found == [hidden(8).plan(rank=rank).computed for rank in (0, 1, 64, 0)] and found[1] != found[2]


def test_layers_in_a_list_are_rehearsed_one_by_one() -> None:
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    (computed,) = ByLayer(net=layers, device="cpu", memory="1GiB").plan().computed
    assert computed >= 2 * 3 * 200 * 8 * 4, "what goes into a layer and what comes out"
