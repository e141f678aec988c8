"""What a call decides before anything runs."""

from typing import Annotated, NamedTuple

import pytest
import torch
from pydantic import Field
from torch import Tensor

from calotype.errors import ComponentNotLoaded, GraphError, InputError, MissingInput, UnknownInput, UnusedInput
from calotype.graph.branches import Branches, NegativeOf
from calotype.graph.inputs import Inputs
from calotype.graph.plan import in_bytes
from calotype.graph.unit import unit
from stubs import Encoder, Net, TextToImage, define, text_to_image


class ControlInputs(Inputs):
    text: str
    picture: str | None = None
    scale: float = 1.0
    size: int = Field(2, ge=1)


class Control(torch.nn.Module):
    pass


@unit
def words(text: str) -> int:
    return len(text.split())


@unit
def edges(picture: str) -> int:
    return len(picture)


@unit
def control(edges: int, scale: float, *, controlnet: Control) -> float:
    return edges * scale


@unit
def result(words: int, control: float | None, size: int) -> float:
    return words * size + (control or 0.0)


Controlled = define(words, edges, control, result, inputs=ControlInputs, controlnet=Control | None)


def test_every_unit_whose_result_is_needed_runs():
    plan = text_to_image().plan(prompt="a cat")
    assert [n.name for n in plan.nodes] == ["embeds", "noise", "sigmas", "latents", "denoise", "image"]
    assert plan.components == ("encoder", "scheduler", "net")
    assert plan.bytes == 8
    assert (plan.prompts, plan.images, [b.name for b in plan.branches]) == (1, 1, ["positive", "negative"])


def test_counts_of_runs_and_memo_hits():
    pipe = text_to_image()
    counts = {n.name: (n.runs, n.hits) for n in pipe.plan(prompt=["a", "b"], num_images=3).nodes}
    assert counts == {
        "embeds": (3, 0),  # two prompts, one empty negative
        "noise": (3, 0), "sigmas": (1, 0), "latents": (3, 0), "denoise": (1, 0), "image": (6, 0),
    }  # fmt: skip
    pipe(prompt="a")
    plan = pipe.plan(prompt=["a", "b"])
    assert (plan.nodes[0].runs, plan.nodes[0].hits) == (3, 2)
    assert plan.components[0] == "encoder"
    again = pipe.plan(prompt="a")
    assert again.nodes[0].components == frozenset()
    assert again.components == ("scheduler", "net") and again.bytes == 4


def test_planning_computes_nothing():
    pipe = text_to_image()
    pipe.plan(prompt="a cat")
    assert pipe.encoder.texts == [] and pipe.net.batches == []


def test_told_in_words():
    pipe = text_to_image()
    pipe(prompt="a")
    text = str(pipe.plan(prompt="a", num_images=2))
    assert text.startswith("TextToImage: 2 images, branches positive, negative\n")
    assert "  embeds   x2  uses encoder  memo 2 of 2\n" in text
    assert "components: scheduler 0 B, net 4 B; together 4 B" in text
    told = str(Controlled().plan(text="a", outputs=("words",)))
    assert "skipped edges: picture is None" in told and "skipped control: edges is None" in told
    assert "pruned result: nothing reads what it makes" in told


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * 2**20, "200 MiB"), (2**41, "2048 GiB")]
)
def test_bytes_in_words(count, text):
    assert in_bytes(count) == text


# -- triggered units ---------------------------------------------------------------------------------------------------


def test_a_chain_of_triggered_units_is_skipped():
    plan = Controlled().plan(text="a b")
    assert dict(plan.skipped) == {"edges": "picture is None", "control": "edges is None"}
    assert Controlled()(text="a b").result == 4


def test_a_given_value_triggers_the_chain():
    pipe = Controlled(controlnet=Control())
    assert pipe.plan(text="a", picture="xyz", scale=2.0).skipped == {}
    assert pipe(text="a", picture="xyz", scale=2.0).result == 8.0


def test_a_missing_component_of_a_triggered_unit():
    with pytest.raises(
        ComponentNotLoaded,
        match=r"control needs component 'controlnet' \(Control\) \(because picture= was given\), but this "
        r"Pipe was loaded without it\. "
        r"Set pipe\.controlnet = \.\.\., or load it: Pipe\.from_pretrained\(\.\.\., controlnet=\.\.\.\)",
    ):
        Controlled().plan(text="a", picture="xyz")
    assert Controlled()(text="a").result == 2


def test_a_missing_component_of_a_unit_that_always_runs():
    with pytest.raises(
        ComponentNotLoaded, match=r"embeds needs component 'encoder' \(Encoder\), but this TextToImage was"
    ):
        TextToImage(net=Net()).plan(prompt="a")


def test_a_component_that_may_be_none():
    @unit
    def tagged(text: str, *, encoder: Encoder | None) -> bool:
        return encoder is None

    class Text(Inputs):
        text: str

    assert define(tagged, inputs=Text, encoder=Encoder | None)()(text="a").tagged is True


def test_a_unit_that_fills_in_an_input():
    class Sized(Inputs):
        size: int | None = None

    class Size(NamedTuple):
        size: int

    @unit
    def sized(size: int | None) -> Size:
        return Size(size or 64)

    @unit
    def area(size: int) -> int:
        return size * size

    pipe = define(sized, area, inputs=Sized)()
    assert pipe.plan().skipped == {}
    assert (pipe().area, pipe(size=2).area) == (4096, 4)


def test_a_refined_value_is_unchanged_where_its_unit_is_skipped():
    @unit
    def louder(words: int, picture: str) -> int:
        return words * 10

    @unit
    def shown(words: int) -> str:
        return str(words)

    class Text(Inputs):
        text: str
        picture: str | None = None

    pipe = define(words, louder.renamed(louder="words"), shown, inputs=Text)()
    assert (pipe(text="a").shown, pipe(text="a", picture="x").shown) == ("1", "10")


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_what_nothing_reads_is_pruned():
    plan = text_to_image().plan(prompt="a", outputs=("embeds",))
    assert [n.name for n in plan.nodes] == ["embeds"]
    assert plan.pruned == ("noise", "sigmas", "latents", "denoise", "image")


def test_impure_units_are_never_pruned():
    seen = []

    @unit(impure=True)
    def noted(text: str) -> int:
        seen.append(text)
        return 1

    class Text(Inputs):
        text: str

    pipe = define(noted, words, inputs=Text)()
    assert pipe(text="a").words == 1 and seen == ["a"]
    assert pipe(text="a", given={"noted": 2}).words == 1 and seen == ["a"]  # all it makes was given


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_unknown_outputs():
    with pytest.raises(
        UnknownInput, match=r"outputs: TextToImage makes no 'latens'; did you mean 'latents'\? It makes"
    ):
        text_to_image().plan(prompt="a", outputs=("latens",))


def test_an_output_whose_unit_is_skipped():
    with pytest.raises(
        MissingInput,
        match="outputs: nothing makes 'control' in this call: control is skipped because edges is None; give that",
    ):
        Controlled().plan(text="a", outputs=("control",))


# -- missing and unused inputs -----------------------------------------------------------------------------------------


def test_missing_inputs_are_named_with_their_readers():
    with pytest.raises(
        MissingInput, match=r"'prompt' is missing: embeds reads it\. Call TextToImage with prompt=\.\.\."
    ):
        text_to_image().plan()


def test_an_input_may_be_missing_where_nothing_needs_it():
    assert [n.name for n in text_to_image().plan(outputs=("noise",), seed=1).nodes] == ["noise"]


def test_a_missing_negative_twin():
    class Twins(Inputs):
        prompt: str
        negative_prompt: Annotated[str, NegativeOf("prompt")]
        guidance_scale: float = 3.0
        steps: int = 1

    pipe = text_to_image(type("Strict", (TextToImage,), {"Inputs": Twins}))
    with pytest.raises(
        MissingInput, match=r"'negative_prompt' is missing: guidance takes the negative of 'prompt' in this"
    ):
        pipe.plan(prompt="a")
    assert pipe.plan(prompt="a", guidance_scale=1.0).branches[0].name == "positive"


def test_unused_because_a_unit_is_skipped():
    with pytest.raises(
        UnusedInput,
        match=r"scale was given, but nothing in this call reads it: control is skipped because edges is None\. "
        r"Give what is None too, or leave scale out",
    ):
        Controlled().plan(text="a", scale=2.0)


def test_unused_because_guidance_is_off():
    with pytest.raises(UnusedInput, match="negative_prompt was given, but guidance is off in this call"):
        text_to_image().plan(prompt="a", negative_prompt="b", guidance_scale=1.0)


def test_unused_because_what_reads_it_is_pruned():
    with pytest.raises(
        UnusedInput, match="steps was given, but nothing in this call reads it: what sigmas makes is not needed"
    ):
        text_to_image().plan(prompt="a", outputs=("embeds",), steps=3)
    with pytest.raises(UnusedInput, match=r"negative_prompt was given, .*: what embeds makes is not needed"):
        text_to_image().plan(negative_prompt="a", outputs=("noise",))


def test_images_without_a_seed():
    with pytest.raises(
        UnusedInput, match="num_images was given, but nothing in this call depends on the seed: leave it out"
    ):
        text_to_image().plan(prompt="a", outputs=("embeds",), num_images=2)
    with pytest.raises(UnusedInput, match=r"seed was given, but nothing in this call reads it"):
        text_to_image().plan(prompt="a", outputs=("embeds",), seed=2)


def test_a_default_that_was_spelled_out_is_not_missed():
    plan = text_to_image().plan(prompt="a", negative_prompt="", guidance_scale=1.0)
    assert len(plan.branches) == 1
    assert Controlled().plan(text="a", scale=1.0, picture=None).skipped["edges"] == "picture is None"


def test_guidance_matters_to_what_is_lifted_although_the_loop_is_pruned():
    pipe = text_to_image()
    both = pipe(prompt="a", negative_prompt="b", guidance_scale=2.0, outputs=("embeds",))
    assert list(both.embeds) == ["positive", "negative"] and pipe.encoder.texts == ["a", "b"]
    assert pipe.net.batches == []
    assert isinstance(pipe(prompt="a", guidance_scale=1.0, outputs=("embeds",)).embeds, Tensor)


# -- lists -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": []}, "prompt is an empty list; give at least one value"),
        (
            {"prompt": ["a", "b"], "negative_prompt": ["c", "d", "e"]},
            "lists of inputs must be equally long: prompt has 2, negative_prompt has 3",
        ),
        ({"prompt": "a", "guidance_scale": [1.0, 2.0]}, "guidance_scale must be float, got list"),
    ],
)
def test_wrong_lists(inputs, message):
    with pytest.raises(InputError, match=message):
        text_to_image().plan(**inputs)


# -- given values ------------------------------------------------------------------------------------------------------

E = torch.zeros(1, 2, 4)


def test_a_given_value_takes_the_place_of_its_unit():
    plan = text_to_image().plan(given={"embeds": Branches(positive=E, negative=E)})
    assert "embeds" not in [n.name for n in plan.nodes] and "embeds" not in plan.pruned
    assert plan.components == ("scheduler", "net")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"embds": E}, UnknownInput, r"given: TextToImage makes no 'embds'; did you mean 'embeds'\?"),
        ({"prompt": "a"}, UnknownInput, r"given: 'prompt' is an input; pass it as prompt=\.\.\."),
        ({"embeds": E}, InputError, "given: 'embeds' differs between the guidance branches positive, negative"),
        (
            {"embeds": Branches(positive=E)}, InputError,
            "given: 'embeds' has the branches positive, but this call needs positive, negative",
        ),
        ({"noise": Branches(positive=E, negative=E)}, InputError, "given: 'noise' is the same on every guidance"),
        ({"noise": "loud"}, InputError, "given: 'noise' must be Tensor, got str"),
        ({"noise": None}, InputError, "given: 'noise' must be Tensor, got None"),
        ({"embeds": Branches(positive=E, negative=3)}, InputError, "given: 'embeds' must be Tensor, got int"),
        ({"noise": [E, E]}, InputError, "given: 'noise' is a list of 2, but this call makes 3 images a prompt"),
        (
            {"latents": torch.zeros(2, 3, 8, 8)}, InputError,
            r"given: 'latents' must be one item, an array of shape \(1, \.\.\.\), got Tensor of shape \(2, 3, 8, 8\)",
        ),
        (
            {"embeds": Branches(positive=E, negative=E[0])}, InputError,
            r"'embeds' must be one item.*got Tensor of shape \(2, 4\).*without the first dimension as value\[None\]",
        ),
        ({"noise": []}, InputError, "noise is an empty list; give at least one value"),
        ({"sigmas": [E, E], "noise": [E] * 3}, InputError, "equally long: sigmas has 2, noise has 1"),
    ],
)  # fmt: skip
def test_wrong_given_values(given, error, message):
    rest = {} if {"embeds", "latents"} & set(given) else {"prompt": "a"}
    with pytest.raises(error, match=message):
        text_to_image().plan(given=given, num_images=3, **rest)


def test_shapes_and_types_of_given_arrays():
    from jaxtyping import Float

    @unit
    def states(seed: int) -> Float[Tensor, "b l c"]:
        raise NotImplementedError

    @unit
    def total(states: Float[Tensor, "b l c"]) -> float:
        return float(states.sum())

    pipe = define(states, total)()
    assert pipe(given={"states": torch.ones(1, 2, 3)}).total == 6
    with pytest.raises(
        InputError, match=r"'states' must be Float\[Tensor, 'b l c'\], got Tensor of shape \(1, 2\) and type"
    ):
        pipe.plan(given={"states": torch.ones(1, 2)})
    with pytest.raises(InputError, match=r"got Tensor of shape \(1, 2, 3\) and type torch\.int64"):
        pipe.plan(given={"states": torch.ones(1, 2, 3, dtype=torch.int64)})


def test_the_input_of_a_given_value_is_unused():
    with pytest.raises(
        UnusedInput, match="prompt was given, but nothing in this call reads it: what embeds makes is not"
    ):
        text_to_image().plan(prompt="a", given={"embeds": Branches(positive=E, negative=E)})


def test_the_inputs_of_a_loop_whose_result_is_given_are_unused():
    with pytest.raises(UnusedInput) as error:
        text_to_image().plan(prompt="a", given={"latents": torch.zeros(1, 3, 8, 8)})
    assert str(error.value) == (
        "prompt was given, but nothing in this call reads it: the given 'latents' replaces what denoise makes; leave "
        "prompt out; to start denoise from a value, give 'noise'"
    )


def test_a_part_of_what_a_unit_makes_together():
    class Pair(NamedTuple):
        first: int
        second: int

    @unit
    def pair(seed: int) -> Pair:
        return Pair(1, 2)

    @unit
    def both(first: int, second: int) -> int:
        return first + second

    pipe = define(pair, both)()
    with pytest.raises(
        InputError,
        match="given: pair makes first and second together, and second is needed too; give second as well, or",
    ):
        pipe.plan(given={"first": 5})
    assert pipe(given={"first": 5, "second": 6}).both == 11


def test_lists_of_lists_for_a_wire_of_lists():
    @unit
    def tokens(seed: int) -> list[int]:
        return [seed]

    @unit
    def count(tokens: list[int]) -> int:
        return len(tokens)

    pipe = define(tokens, count)()
    assert pipe(given={"tokens": [1, 2, 3]}).count == 3
    assert pipe(given={"tokens": [[1, 2, 3], [4]]})["count"] == [3, 1]


def test_branches_of_one_name_that_differ_between_loops():
    from dataclasses import dataclass

    from calotype.graph.branches import POSITIVE, Branch
    from calotype.sampling import Denoise, Guidance, NoGuidance
    from stubs import TextInputs, embeds, latents, noise, sigmas, velocity

    @dataclass(frozen=True)
    class Other(NoGuidance):
        def branches(self, twins):
            return (POSITIVE, Branch("negative", tag="skip"))

    @unit
    def other() -> Guidance:
        return Other()

    loops = (Denoise(velocity, name="first"), Denoise(velocity, name="second", guidance=other))
    from calotype.sampling import FlowMatchEuler, Scheduler

    cls = define(
        embeds, noise, sigmas, latents, *loops, inputs=TextInputs, encoder=Encoder, net=Net, scheduler=Scheduler
    )
    with pytest.raises(GraphError, match="second: its branch 'negative' is another one in an earlier loop; rename it"):
        cls(encoder=Encoder(), net=Net(), scheduler=FlowMatchEuler()).plan(prompt="a")
