"""Checks when a pipeline class is defined. Each rule, and the error where it is broken."""

from typing import Annotated, Any, NamedTuple, NewType

import pytest
from jaxtyping import Float, Int
from torch import Tensor

from calotype.errors import GraphError
from calotype.graph.branches import Branch, Branches, NegativeOf
from calotype.graph.graph import build_graph
from calotype.graph.hints import Component, Pad
from calotype.graph.inputs import Inputs
from calotype.graph.take_over import State, takes_over
from calotype.graph.unit import unit
from calotype.sampling import Denoise, NoiseLevels, Scheduler

Noise = NewType("Noise", Tensor)


class Encoder:
    pass


class TextInputs(Inputs):
    prompt: str
    negative_prompt: Annotated[str, NegativeOf("prompt")] = ""
    size: int = 8
    picture: str | None = None


class Prompt(Inputs):
    prompt: str


class Picture(Inputs):
    picture: str | None = None


@unit
def length(prompt: str) -> int:
    return len(prompt)


@unit
def encoded(prompt: str, *, encoder: Encoder) -> int:
    return 1


@unit
def drawn(picture: str) -> int:
    return len(picture)


def build(*nodes: Any, inputs: type[Inputs] = Prompt, **components: Any) -> Any:
    return build_graph("Pipe", nodes, inputs, components)


def refused(message: str, *nodes: Any, inputs: type[Inputs] = Prompt, **components: Any) -> None:
    with pytest.raises(GraphError, match=message):
        build(*nodes, inputs=inputs, **components)


def test_wired_by_name():
    @unit
    def doubled(length: int) -> int:
        return 2 * length

    graph = build(length, doubled)
    assert graph.outputs == ("doubled",)
    assert graph.wires["length"] is int
    assert graph.makers("length") == [length]


def test_a_named_tuple_spreads_into_wires():
    class Pair(NamedTuple):
        first: int
        second: str

    @unit
    def pair(prompt: str) -> Pair:
        return Pair(1, prompt)

    @unit
    def joined(first: int, second: str) -> str:
        return second * first

    assert set(build(pair, joined).wires) >= {"first", "second", "joined"}


def test_unknown_wire():
    @unit
    def doubled(lenght: int) -> int:
        return lenght

    refused(r"Pipe: doubled reads 'lenght', which nothing before it makes; did you mean 'length'\?", length, doubled)


def test_wire_that_is_made_later():
    @unit
    def doubled(length: int) -> int:
        return length

    refused("doubled reads 'length', which nothing before it makes; length makes it, but runs later", doubled, length)


def test_what_is_no_unit():
    refused("Pipe.units holds plain, which is not a unit; decorate it with @unit", plain)
    refused("Pipe.units holds 3, which is not a unit", 3)


def plain(prompt: str) -> int:
    return 1


def test_two_nodes_of_one_name():
    refused(r"Pipe\.units has two nodes named 'length'; give one other wires with \.renamed\(\.\.\.\)", length, length)
    assert build(length, length.renamed(length="again")).outputs == ("again",)


@pytest.mark.parametrize(
    ("made", "wanted", "message"),
    [
        (int, str, "reads 'value' as str, but value gives int"),
        (Tensor, Noise, "reads 'value' as Noise, but value gives Tensor"),
        (Float[Tensor, "b c"], Float[Tensor, "b l c"], r"but value gives Float\[Tensor, 'b c'\]"),
        (Int[Tensor, "b"], Float[Tensor, "b"], r"as Float\[Tensor, 'b'\], but value gives Int\[Tensor, 'b'\]"),
        (Branches[int], str, r"reads 'value' as str, but value gives Branches\[int\]"),
        (int, Branches[str], r"reads 'value' as Branches\[str\], but value gives int"),
    ],
)  # fmt: skip
def test_type_mismatch(made, wanted, message):
    def value(prompt: str):
        return None

    def reader(value):
        return 0

    value.__annotations__["return"] = made
    reader.__annotations__ = {"value": wanted, "return": int}
    refused(message, unit(value), unit(reader))


def test_a_new_type_is_a_wire_of_its_own_and_still_its_base():
    @unit
    def noise(prompt: str) -> Noise:
        raise NotImplementedError

    @unit
    def scaled(noise: Noise) -> Tensor:
        return noise

    @unit
    def shown(noise: Tensor) -> Tensor:
        return noise

    assert build(noise, scaled, shown).wires["noise"] is Noise


def test_undeclared_component():
    refused(
        r"Pipe: encoded uses component 'encoder', which the pipeline does not declare; did you mean 'encodr'\?; "
        "add `encoder: Encoder` to Pipe",
        encoded, encodr=Encoder,
    )  # fmt: skip


def test_component_of_another_type():
    refused("encoded uses component 'encoder' as Encoder, but the pipeline declares str", encoded, encoder=str)
    assert build(encoded, encoder=Encoder | None).outputs == ("encoded",)


def test_component_by_name():
    hint = Component["transformers:CLIPTextModel"]

    @unit
    def clip(prompt: str, *, text_encoder: hint) -> int:
        return 1

    assert build(clip, text_encoder=hint).outputs == ("clip",)
    refused(
        r'uses component \'text_encoder\' as Component\["transformers:CLIPTextModel"\], but the pipeline declares',
        clip, text_encoder=Encoder,
    )  # fmt: skip


def test_refinement_reads_and_writes_the_same_wire():
    @unit
    def grown(length: int) -> int:
        return length + 1

    refined = grown.renamed(grown="length")
    graph = build(length, refined, refined.named("grown again"))
    assert [node.name for node in graph.nodes] == ["length", "grown", "grown again"]
    assert [node.name for node in graph.makers("length")] == ["length", "grown", "grown again"]


def test_overwriting_unread():
    class Both(NamedTuple):
        length: int
        more: int

    @unit
    def both(prompt: str) -> Both:
        return Both(0, 0)

    refused(
        r"Pipe: both overwrites 'length' from length without reading it; read it to refine it, or write another wire "
        r"with both\.renamed\(length=\.\.\.\)",
        length, both,
    )  # fmt: skip


def test_overwriting_an_input():
    @unit
    def made(size: int) -> int:
        return size

    class Sized(Inputs):
        size: int = 1
        made: int = 2

    refused("made overwrites 'made' from the inputs without reading it", made, inputs=Sized)


def test_refining_into_another_type():
    @unit
    def refined(length: int) -> str:
        return ""

    class Refined(NamedTuple):
        length: str

    @unit
    def turned(length: int) -> Refined:
        return Refined("")

    refused("turned refines 'length' from int into str; a refined value keeps its type", length, turned)


def test_reserved_names():
    class Seeds(NamedTuple):
        seed: int
        value: int

    @unit
    def seeds(prompt: str) -> Seeds:
        return Seeds(1, 1)

    refused("seeds writes 'seed', which the engine reserves; rename it", seeds)
    assert build(seeds.renamed(seed="own_seed")).outputs == ("own_seed", "value")


def test_an_input_that_nothing_reads():
    refused("Pipe: no unit reads the input 'picture'", length, inputs=type("Two", (Prompt, Picture), {}))

    @unit
    def sized(sise: int, prompt: str) -> int:
        return sise

    @unit
    def sise(prompt: str) -> int:
        return 1

    class Sized(Prompt):
        size: int = 1

    refused(r"no unit reads the input 'size'; did you mean 'sise'\?", sise, sized, inputs=Sized)


def test_the_negative_twin_needs_no_reader_but_its_twin_does():
    class Twins(Inputs):
        prompt: str
        negative_prompt: Annotated[str, NegativeOf("prompt")] = ""

    assert build(length, inputs=Twins).twins == {"prompt": "negative_prompt"}
    refused("no unit reads the input 'prompt'", unit(lambda_free), inputs=Twins)


def lambda_free(seed: int) -> int:
    return seed


# -- what may be None --------------------------------------------------------------------------------------------------


@unit
def predict(latents: Tensor, control: Tensor) -> Tensor:
    return latents


@unit
def noise(seed: int) -> Tensor:
    raise NotImplementedError


@unit
def sigmas(seed: int) -> NoiseLevels:
    raise NotImplementedError


@unit
def control(picture: str) -> Tensor:
    raise NotImplementedError


def loop(**options: Any) -> Denoise:
    return Denoise(predict, latents="noise", guidance=None, **options)


def test_a_loop_that_may_be_skipped():
    nodes = (noise, sigmas, control)
    refused(
        "Pipe: denoise needs 'control', but control may be skipped or make none, and then it is None; type the "
        r"parameter `control: \.\.\. \| None`, or make what control needs required",
        *nodes, loop(), inputs=Picture, scheduler=Scheduler,
    )  # fmt: skip
    assert build(*nodes, loop(optional=True), inputs=Picture, scheduler=Scheduler).nodes[-1].name == "denoise"


def test_a_loop_that_needs_an_optional_input():
    class Controlled(Inputs):
        control: Annotated[Tensor, "x"] | None = None

    refused(
        "denoise needs 'control', but it is an optional input, and then it is None; .* or give it a default",
        noise, sigmas, loop(), inputs=Controlled, scheduler=Scheduler,
    )  # fmt: skip


def test_a_unit_that_fills_in_what_was_left_out():
    class Filled(NamedTuple):
        picture: str

    @unit
    def filled(picture: str | None) -> Filled:
        return Filled(picture or "blank")

    graph = build(noise, sigmas, filled, control, loop(), inputs=Picture, scheduler=Scheduler)
    assert graph.nodes[-1].name == "denoise"


def test_a_unit_that_may_make_none():
    @unit
    def control(seed: int) -> Tensor | None:
        return None

    refused(
        "denoise needs 'control', but control may be",
        noise,
        sigmas,
        control,
        loop(),
        scheduler=Scheduler,
        inputs=Inputs,
    )


# -- branches ----------------------------------------------------------------------------------------------------------


class Twins(Inputs):
    prompt: str
    negative_prompt: Annotated[str, NegativeOf("prompt")] = ""
    size: int = 8


@unit
def area(size: int) -> int:
    return size * size


def test_what_derives_from_a_twinned_input_is_lifted():
    @unit
    def mixed(length: int, area: int) -> int:
        return length + area

    @unit
    def joined(length: Branches[int]) -> int:
        return 0

    @unit
    def told(area: int, branch: Branch) -> int:
        return area

    graph = build(length, area, mixed, joined, told, inputs=Twins)
    lifted = {wire for wire, lift in graph.lifts.items() if lift}
    assert lifted == {"prompt", "length", "mixed", "told"}


def test_a_mixed_named_tuple_is_lifted_field_by_field():
    class Mixed(NamedTuple):
        weights: Branches[int]
        count: int

    @unit
    def mixed(size: int) -> Mixed:
        return Mixed(Branches(positive=1), 2)

    @takes_over(reads={"count": int, "prompt": Branches[str]}, writes={"regions": int})
    def regions(state: State) -> None: ...

    graph = build(mixed, regions, inputs=Twins)
    assert graph.lifts["weights"] and not graph.lifts["count"] and not graph.lifts["regions"]


def test_all_branches_at_once_from_one_branch_at_a_time():
    @unit
    def spread(prompt: str) -> Branches[int]:
        return Branches(positive=1)

    refused(
        "spread makes 'spread' for all branches at once, but reads 'prompt' one branch at a time; declare what it",
        spread, area, inputs=Twins,
    )  # fmt: skip

    @unit
    def told(size: int, branch: Branch) -> Branches[int]:
        return Branches(positive=1)

    refused("told makes 'told' for all branches at once, but reads 'branch' one branch", told, length, inputs=Twins)


def test_take_over_declares_what_differs_between_branches():
    @takes_over(reads={"prompt": str}, writes={"regions": int})
    def regions(state: State) -> None: ...

    refused(
        r"regions reads 'prompt' as str, but it differs between guidance branches; declare it as Branches\[str\]",
        regions, area, inputs=Twins,
    )  # fmt: skip


def test_loops_are_guided_by_inputs():
    @unit
    def guidance_scale(size: int) -> float:
        return 1.0

    @unit
    def predict(latents: Tensor, prompt: str) -> Tensor:
        return latents

    refused(
        "denoise decides its branches by 'guidance_scale' before anything runs, so it must be an input; guidance_scale "
        "makes it",
        noise, sigmas, guidance_scale, Denoise(predict, latents="noise"), inputs=Twins, scheduler=Scheduler,
    )  # fmt: skip


def test_pad_and_other_annotations_do_not_decide_fit():
    @unit
    def states(prompt: str) -> Annotated[Float[Tensor, "b l c"], Pad(1)]:
        raise NotImplementedError

    @unit
    def pooled(states: Float[Tensor, "b l c"]) -> Float[Tensor, "b c"]:
        return states.mean(1)

    assert build(states, pooled).outputs == ("pooled",)
