"""Packs of units inserted in a pipeline."""

from typing import Annotated

import pytest
import torch
from pydantic import Field, field_validator
from torch import Tensor

from calotype.errors import GraphError, InputError, MissingInput
from calotype.graph.branches import NegativeOf
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.pipelines.packs import UnitPack
from stubs import TextToImage, text_to_image


class BiasInputs(Inputs):
    bias: float | None = Field(None, ge=-1, le=1, description="What to add to the noise.")

    @field_validator("bias")
    @classmethod
    def _not_zero(cls, value):
        if value == 0:
            raise ValueError("a bias of 0 does nothing")
        return value


@unit
def biased(noise: Tensor, bias: float) -> Tensor:
    return noise + bias


BIAS = UnitPack((biased.renamed(biased="noise"),), BiasInputs)


def test_a_new_pipeline_that_shares_components():
    pipe = text_to_image()
    wider = pipe.with_units(BIAS, before="latents")
    assert wider is not pipe and wider.net is pipe.net and isinstance(wider, TextToImage)
    assert [n.name for n in wider.units] == ["embeds", "noise", "sigmas", "biased", "latents", "denoise", "image"]
    assert [n.name for n in pipe.units] == ["embeds", "noise", "sigmas", "latents", "denoise", "image"]
    call = {"seed": 1, "outputs": ("noise",)}
    plain, other = pipe(**call).noise, wider(**call, bias=0.5).noise
    assert torch.allclose(other - plain, torch.full_like(plain, 0.5))
    assert torch.equal(wider(**call).noise, plain)


def test_inputs_of_a_pack_are_inputs_with_all_that_they_declare():
    wider = text_to_image().with_units(BIAS, after="noise")
    assert "bias" in wider.Inputs.model_json_schema()["properties"]
    with pytest.raises(InputError, match="bias must be at most 1"):
        wider(prompt="a", bias=2.0)
    with pytest.raises(InputError, match="bias: a bias of 0 does nothing"):
        wider(prompt="a", bias=0.0)


def test_a_twin_in_a_pack():
    class Styled(Inputs):
        style: str
        negative_style: Annotated[str, NegativeOf("style")] = "plain"

    @unit
    def styled(embeds: Tensor, style: str) -> Tensor:
        return embeds * len(style)

    wider = text_to_image().with_units(UnitPack((styled.renamed(styled="embeds"),), Styled))
    both = wider(prompt="a", negative_prompt="a", style="abc", seed=1, outputs=("embeds", "latents")).embeds
    assert torch.allclose(both["positive"] / 3, both["negative"] / 5)
    with pytest.raises(MissingInput, match="'style' is missing: styled reads it"):
        wider(prompt="a")


def test_before_the_first_loop_unless_said():
    @unit
    def shifted(latents: Tensor) -> Tensor:
        return latents + 1

    wider = text_to_image().with_units([shifted.renamed(shifted="latents")])
    assert [n.name for n in wider.units][-3:] == ["shifted", "denoise", "image"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"after": "noise", "before": "noise"}, "with_units: give after= or before=, not both"),
        ({"after": "nois"}, r"with_units: TextToImage has no unit 'nois'; did you mean 'noise'\?"),
        ({"before": "noise"}, "biased reads 'noise', which nothing before it makes; noise makes it, but runs later"),
    ],
)
def test_wrong_places(where, message):
    with pytest.raises(GraphError, match=message):
        text_to_image().with_units(BIAS, **where)


def test_clashes():
    @unit
    def noise(seed: int) -> Tensor:
        raise NotImplementedError

    class Steps(Inputs):
        steps: int = 3

    with pytest.raises(
        GraphError, match=r"with_units: TextToImage already has a unit 'noise'; rename one with \.renamed"
    ):
        text_to_image().with_units([noise])
    with pytest.raises(GraphError, match="TextToImage already has the input steps; rename the pack's"):
        text_to_image().with_units(UnitPack((biased,), Steps))


def test_what_does_not_fit():
    @unit
    def wrong(noise: str) -> str:
        return noise

    with pytest.raises(GraphError, match=r"TextToImage\+wrong: wrong reads 'noise' as str, but noise gives Tensor"):
        text_to_image().with_units([wrong])


def test_memo_and_memory_are_shared():
    pipe = text_to_image()
    wider = pipe.with_units(BIAS, before="latents")
    pipe(prompt="a", seed=1)
    wider(prompt="a", seed=1)
    assert pipe.encoder.texts == ["a", ""] and wider._residency is pipe._residency
    wider.encoder = type(pipe.encoder)()
    wider(prompt="a", seed=1)
    assert wider.encoder.texts == ["a", ""] and pipe.encoder is not wider.encoder
    again = pipe(prompt="a", seed=1, outputs=("embeds", "latents"))
    assert list(again.embeds) == ["positive", "negative"]


def test_the_names_of_the_added_inputs():
    class Added(Inputs):
        softness: float = 1.0

    assert UnitPack((), Added).fields == frozenset({"softness"})
    assert UnitPack(()).fields == frozenset()
