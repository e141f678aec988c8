"""Splitting a graph for training."""

from typing import Annotated

import pytest
from torch import Tensor

from calotype.errors import ComponentError, GraphError
from calotype.graph.branches import NegativeOf
from calotype.graph.inputs import Inputs
from calotype.graph.split import split_graph
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline
from calotype.sampling import Denoise, Scheduler
from stubs import Encoder, Net, TextToImage, define, embeds, latents, noise, sigmas, velocity


class Crops(Inputs):
    prompt: str
    negative_prompt: Annotated[str, NegativeOf("prompt")] = ""
    guidance_scale: float = 3.0
    steps: int = 4
    picture: str = ""


def test_training_the_network_caches_the_text():
    split = TextToImage.split("net")
    assert split.trained == ("net",)
    assert split.cached == ("embeds", "sigmas")
    assert split.live == ("noise", "latents", "denoise")
    assert split.unused == ("image",)
    assert split.wires == ("embeds", "sigmas")
    assert set(split.components) == {"scheduler", "net"}


def test_training_the_encoder_keeps_it_live():
    split = TextToImage.split(["encoder", "net"])
    assert "embeds" in split.live and split.cached == ("sigmas",)
    assert set(split.components) == {"encoder", "scheduler", "net"}


def split_of(*units, trained="net"):
    components = {"encoder": Encoder, "net": Net, "scheduler": Scheduler}
    return define(*units, inputs=Crops, **components).split(trained)


@pytest.mark.parametrize("marks", [{"random": True}, {"impure": True}])
def test_what_is_random_or_impure_runs_in_every_step(marks):
    @unit(**marks)
    def crop(picture: str) -> int:
        return 1

    @unit
    def encoded(crop: int, *, encoder: Encoder) -> Tensor:
        raise NotImplementedError

    @unit
    def predict(latents: Tensor, encoded: Tensor, embeds: Tensor, *, net: Net) -> Tensor:
        return latents

    split = split_of(embeds, crop, encoded, noise, sigmas, latents, Denoise(predict))
    assert {"crop", "encoded"} <= set(split.live) and "embeds" in split.cached


def test_what_the_loop_does_not_need_is_unused():
    @unit
    def note(picture: str) -> int:
        return 1

    split = split_of(embeds, note, noise, sigmas, latents, Denoise(velocity))
    assert split.unused == ("note",)


def test_without_a_loop_everything_is_needed():
    split = define(embeds, inputs=type("P", (Inputs,), {"__annotations__": {"prompt": str}}), encoder=Encoder).split(
        "encoder"
    )
    assert (split.live, split.cached, split.unused) == (("embeds",), (), ())


def test_told_in_words():
    assert "  stored wires: embeds, sigmas" in str(TextToImage.split("net"))


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (
            "nett",
            r"split: 'nett' is not a component of TextToImage; did you mean 'net'\? The components are encoder, net",
        ),
        ([], "split: name the components to train, out of encoder, net, scheduler"),
    ],
)
def test_wrong_names(trained, message):
    with pytest.raises(ComponentError, match=message):
        TextToImage.split(trained)


def test_training_what_nothing_uses():
    class Idle(TextToImage):
        decoder: Net | None = None

    with pytest.raises(
        ComponentError, match="split: training 'decoder' would change nothing: no unit up to the loop uses it"
    ):
        split_graph(Idle.graph, ["decoder"])


def test_a_free_form_pipeline_cannot_be_split():
    class Free(DiffusionPipeline):
        pass

    with pytest.raises(GraphError, match="Free has no units: a free-form pipeline is called"):
        Free.split("net")
