"""Packs of units inserted in a pipeline."""

from typing import Annotated

import pytest
import torch
from PIL import ImageOps
from pydantic import Field, create_model, field_validator, model_validator
from torch import Tensor

from calotype.errors import GraphError, InputError, MissingInput
from calotype.graph.branches import NegativeOf
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.pipelines.naming import renamed_inputs
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, to_picture
from calotype.sampling import ClassifierFree, Guidance, Step
from stubs import Net, TextInputs, TextToImage, text_to_image


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


def test_a_validator_of_the_same_name_as_one_that_is_there_is_refused():
    """Models are merged by inheritance, in which only one of both would check anything."""

    class GammaInputs(Inputs):
        gamma: float = Field(1.0, description="What to multiply the noise by.")

        @field_validator("gamma")
        @classmethod
        def _not_zero(cls, value):
            if value == 0:
                raise ValueError("a gamma of 0 leaves nothing")
            return value

    @unit
    def stretched(noise: Tensor, gamma: float) -> Tensor:
        return noise * gamma

    pack = UnitPack((stretched.renamed(stretched="noise"),), GammaInputs)
    wider = text_to_image().with_units(BIAS, before="latents")
    with pytest.raises(GraphError, match=r"GammaInputs\) both have a method or validator named _not_zero"):
        wider.with_units(pack, before="latents")
    alone = text_to_image().with_units(pack, before="latents")
    with pytest.raises(InputError, match="a gamma of 0 leaves nothing"):
        alone(gamma=0.0)


class WindowInputs(Inputs):
    window_start: float = 0.0
    window_end: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _not_the_whole(cls, values):
        if values.get("window_start") == 0 and values.get("window_end") == 1:
            raise ValueError("window_start and window_end say nothing new")
        return values

    @model_validator(mode="after")
    def _in_order(self):
        if self.window_start >= self.window_end:
            raise ValueError(f"window_start must come before window_end, got {self.window_start:g}")
        return self


def test_inputs_under_other_names_are_checked_as_under_their_own():
    names = {"window_start": "depth_start", "window_end": "depth_end"}
    renamed = renamed_inputs(WindowInputs, names)
    assert renamed(depth_end=0.5).depth_end == 0.5
    assert renamed(depth_start=0.25).depth_start == 0.25
    with pytest.raises(ValueError, match=r"depth_start must come before depth_end, got 0\.5"):
        renamed(depth_start=0.5, depth_end=0.25)
    with pytest.raises(ValueError, match="depth_start and depth_end say nothing new"):
        renamed(depth_start=0.0, depth_end=1.0)
    assert renamed_inputs(WindowInputs, {n: n for n in names}) is WindowInputs
    other = renamed_inputs(WindowInputs, {"window_start": "pose_start", "window_end": "pose_end"})

    @unit
    def shaped(noise: Tensor, depth_start: float, pose_start: float, depth_end: float, pose_end: float) -> Tensor:
        return noise * (depth_end - depth_start) * (pose_end - pose_start)

    both = create_model("Both", __base__=(renamed, other))
    pipe = text_to_image().with_units(UnitPack((shaped.renamed(shaped="noise"),), both), before="latents")
    for name in ("depth", "pose"):
        with pytest.raises(InputError, match=f"{name}_start must come before {name}_end"):
            pipe(**{f"{name}_start": 0.5, f"{name}_end": 0.25})


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


def test_optional_units_go_into_pipelines_that_have_their_wires():
    @unit
    def lifted(elsewhere: Tensor) -> Tensor:
        return elsewhere + 1

    fitting = BIAS.units[0].named("again")
    pack = UnitPack(BIAS.units, BiasInputs, optional=(lifted.renamed(lifted="elsewhere"), fitting))
    wider = text_to_image().with_units(pack, before="latents")
    assert [n.name for n in wider.units if n.name in ("biased", "again", "lifted")] == ["biased", "again"]
    plain = text_to_image()(seed=1, outputs=("noise",)).noise
    found = wider(seed=1, bias=0.5, outputs=("noise",)).noise
    assert torch.allclose(found - plain, torch.full_like(plain, 1.0))


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


def test_units_for_the_loop():
    """A pack's units refine the loop's value after each step and make another policy of its own."""

    @unit
    def halved(latents: Tensor, step: Step, share: float) -> Tensor:
        return latents * share if step.index == 3 else latents

    @unit
    def doubled(policy: Guidance, share: float) -> Guidance:
        assert isinstance(policy, ClassifierFree)
        return ClassifierFree(policy.scale / share)

    class Share(Inputs):
        share: float | None = None

    pipe = text_to_image()
    call = {"prompt": "a", "seed": 1, "outputs": ("latents",)}
    last = pipe.with_units(UnitPack((), Share, after_step=(halved,)))
    assert torch.allclose(last(**call, share=0.5).latents, pipe(**call).latents / 2)
    assert torch.equal(last(**call).latents, pipe(**call).latents)
    guided = pipe.with_units(UnitPack((), Share, around=(doubled,)))
    assert torch.equal(guided(**call, share=0.5).latents, pipe(**call, guidance_scale=6.0).latents)
    assert torch.equal(guided(**call).latents, pipe(**call).latents)
    with pytest.raises(InputError, match="share must be"):
        guided(**call, share=[0.5, 0.5])
    both = guided.with_units(UnitPack((), after_step=(halved,)))
    assert torch.allclose(both(**call, share=0.5).latents, pipe(**call, guidance_scale=6.0).latents / 2)


def test_a_unit_that_decides_branches_has_no_components():
    @unit
    def asking(policy: Guidance, *, net: Net) -> Guidance:
        return policy

    with pytest.raises(GraphError, match="denoise: asking decides the branches before anything runs"):
        text_to_image().with_units(UnitPack((), around=(asking,)))


def test_units_for_a_loop_that_does_not_follow():
    @unit
    def kept(latents: Tensor) -> Tensor:
        return latents

    with pytest.raises(GraphError, match="kept is for a loop, but none follows in TextToImage"):
        text_to_image().with_units(UnitPack((), after_step=(kept,)), after="denoise")


def test_an_input_is_refined_before_who_reads_it():
    @unit
    def loud(prompt: str) -> str:
        return prompt.upper()

    shout = loud.renamed(loud="prompt")
    pipe = text_to_image()
    wider = pipe.with_units(UnitPack((shout, *BIAS.units), BiasInputs))
    assert [n.name for n in wider.units] == [
        "loud",
        "embeds",
        "noise",
        "sigmas",
        "latents",
        "biased",
        "denoise",
        "image",
    ]
    wider(prompt="a", seed=1)
    assert pipe.encoder.texts == ["A", ""]
    with pytest.raises(
        GraphError, match=r"loud refines 'prompt', which nothing reads after it; insert it before='embe"
    ):
        pipe.with_units([shout], after="embeds")


def test_what_a_pipeline_makes_is_refined_at_its_end():
    """The picture that comes out may have the name of an input, which is another value."""

    class Painting(TextInputs):
        image: Picture | None = None

    @unit
    def painted(latents: Tensor, image: Picture | None) -> Picture:
        return to_picture(torch.sin(latents))

    @unit
    def flipped(image: Picture) -> Picture:
        return ImageOps.mirror(image)

    units = (*TextToImage.units[:-1], painted.renamed(painted="image"))
    pipe = text_to_image(type("Painter", (TextToImage,), {"units": units, "Inputs": Painting}))
    wider = pipe.with_units([flipped.renamed(flipped="image")], after="painted")
    call = {"prompt": "a", "seed": 1}
    assert ImageOps.mirror(wider(**call).image).tobytes() == pipe(**call).image.tobytes()


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
