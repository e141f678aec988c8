"""Running a call over its three axes: guidance branches, prompts and images."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import pytest
import torch
from torch import Tensor

from calotype.errors import GraphError, InputError
from calotype.graph.branches import POSITIVE, Branch, Branches, NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.take_over import State, takes_over
from calotype.graph.unit import unit
from calotype.sampling import Denoise, FlowMatchEuler, Guidance, NoGuidance, Scheduler, Step
from stubs import Encoder, Net, TextInputs, define, embeds, latents, noise, sigmas, text_to_image

PARTS = {"encoder": Encoder, "net": Net, "scheduler": Scheduler}


def run(*nodes, inputs=TextInputs, options=None, **call):
    pipe = define(*nodes, inputs=inputs, **PARTS)(
        encoder=Encoder(), net=Net(), scheduler=FlowMatchEuler(), **(options or {})
    )
    return pipe, pipe(seed=3, **call)


# -- branches ----------------------------------------------------------------------------------------------------------


def test_a_lifted_unit_runs_once_for_each_branch():
    pipe = text_to_image()
    result = pipe(prompt="a cat", negative_prompt="a dog", outputs=("embeds", "image"), seed=1)
    assert pipe.encoder.texts == ["a cat", "a dog"]
    assert list(result.embeds) == ["positive", "negative"]


def test_and_once_without_guidance():
    pipe = text_to_image()
    result = pipe(prompt="a cat", guidance_scale=1.0, outputs=("embeds", "image"), seed=1)
    assert pipe.encoder.texts == ["a cat"] and isinstance(result.embeds, Tensor)


def test_equal_values_are_computed_once():
    pipe = text_to_image(memo=0)
    pipe(prompt=["a", "b", "a"], seed=1)
    assert pipe.encoder.texts == ["a", "b", ""]


class EditInputs(Inputs):
    prompt: str
    negative_prompt: Annotated[str, NegativeOf("prompt")] = ""
    picture: str
    negative_picture: Annotated[str, NegativeOf("picture")] = ""
    steps: int = 2


@dataclass(frozen=True)
class Edit(NoGuidance):
    """InstructPix2Pix: one branch without text, one without text and picture."""

    def branches(self, twins):
        return (POSITIVE, Branch("no_text", frozenset({"prompt"})), Branch("nothing", frozenset({"prompt", "picture"})))

    def active(self, step):
        return ("positive", "no_text", "nothing")

    def combine(self, predictions, step):
        a, b, c = (predictions[n] for n in ("positive", "no_text", "nothing"))
        return c + 1.5 * (b - c) + 2.0 * (a - b)


@unit
def edit() -> Guidance:
    return Edit()


def test_branches_that_coincide_share_one_run():
    seen = {"text": [], "picture": [], "both": []}

    @unit
    def text(prompt: str) -> float:
        seen["text"].append(prompt)
        return float(len(prompt))

    @unit
    def drawn(picture: str) -> float:
        seen["picture"].append(picture)
        return float(len(picture))

    @unit
    def both(text: float, drawn: float) -> float:
        seen["both"].append((text, drawn))
        return text + 10 * drawn

    @unit
    def predict(latents: Tensor, both: float, *, net: Net) -> Tensor:
        return latents * 0 + both

    _, result = run(
        text, drawn, both, noise, sigmas, latents, Denoise(predict, guidance=edit),
        inputs=EditInputs, prompt="abc", picture="xy", outputs=("both", "latents"),
    )  # fmt: skip
    assert seen == {"text": ["abc", ""], "picture": ["xy", ""], "both": [(3, 2), (0, 2), (0, 0)]}
    assert dict(result.both.items()) == {"positive": 23, "no_text": 20, "nothing": 0}
    expected = 0 + 1.5 * (20 - 0) + 2.0 * (23 - 20)
    start = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(result.latents, start - expected, atol=1e-4)


def test_a_unit_is_told_its_branch():
    @unit
    def told(steps: int, branch: Branch) -> str:
        return f"{branch.name} of {sorted(branch.negated)}"

    _, result = run(embeds, told, noise, sigmas, latents, denoise(), prompt="a", outputs=("told", "latents"))
    assert dict(result.told.items()) == {"positive": "positive of []", "negative": "negative of ['prompt']"}


def test_a_unit_reads_all_branches_at_once():
    @unit
    def distance(embeds: Branches[Tensor]) -> float:
        return float((embeds["positive"] - embeds["negative"]).abs().max())

    _, result = run(embeds, distance, noise, sigmas, latents, denoise(), prompt="a", outputs=("distance", "latents"))
    assert result.distance == pytest.approx(97 / 101)


def test_a_negative_without_an_input_twin():
    @unit
    def weights(steps: int) -> Branches[float]:
        return Branches(positive=1.0, negative=0.25, unneeded=7.0)

    @unit
    def predict(latents: Tensor, weights: float) -> Tensor:
        return latents * 0 + weights

    class Weighted(Inputs):
        guidance_scale: float = 3.0
        steps: int = 1

    _, result = run(weights, noise, sigmas, latents, Denoise(predict), inputs=Weighted, outputs=("latents", "weights"))
    start = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(result.latents, start - (0.25 + 3 * 0.75), atol=1e-5)
    assert dict(result.weights.items()) == {"positive": 1.0, "negative": 0.25}
    _, off = run(
        weights, noise, sigmas, latents, Denoise(predict),
        inputs=Weighted, outputs=("weights", "latents"), guidance_scale=1.0,
    )  # fmt: skip
    assert off.weights == 1.0


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (3.0, r"weights returned float for 'weights', wanted Branches\(positive=\.\.\., \.\.\.\)"),
        (Branches(positive=1.0), "weights returned no value for the branch 'negative' of 'weights'"),
        (None, r"weights returned None for 'weights', wanted Branches\[float\]"),
    ],
)
def test_wrong_branches(made, message):
    @unit
    def weights(steps: int) -> Branches[float]:
        return made

    with pytest.raises(GraphError, match=message):
        run(embeds, weights, noise, sigmas, latents, denoise(), prompt="a", outputs=("weights", "latents"))


# -- take-over units ---------------------------------------------------------------------------------------------------


def test_take_over_drives_all_branches():
    @takes_over(reads={"embeds": Branches[Tensor], "steps": int}, writes={"embeds": Branches[Tensor], "note": str})
    def mixed(state: State, *, encoder: Encoder) -> None:
        """Mix the branches."""
        both = state["embeds"]
        state["embeds"] = Branches(positive=both["positive"] + encoder.weight, negative=both["positive"])
        state["note"] = f"{state['steps']} steps"

    @unit
    def louder(note: str) -> str:
        return note.upper()

    _, result = run(
        embeds, mixed, louder, noise, sigmas, latents, denoise(),
        prompt="a", outputs=("embeds", "louder", "latents"),
    )  # fmt: skip
    value = 97 / 101
    assert result.louder == "4 STEPS"
    assert result.embeds["positive"].mean() == pytest.approx(value + 1)
    assert result.embeds["negative"].mean() == pytest.approx(value)


def test_take_over_is_held_to_its_declaration():
    @takes_over(reads={"steps": int}, writes={"note": str})
    def sneaky(state: State) -> None:
        state["note"] = state["prompt"]

    with pytest.raises(
        GraphError, match=r"sneaky reads 'prompt' without declaring it; add it to @takes_over\(reads=\.\.\.\)"
    ):
        define(sneaky, inputs=type("Steps", (Inputs,), {"__annotations__": {"steps": int}}))()(steps=1)


def test_take_over_is_skipped_where_what_it_needs_is_none():
    calls = []

    @takes_over(reads={"maybe": int}, writes={"note": str})
    def noted(state: State) -> None:
        calls.append(state["maybe"])
        state["note"] = str(state["maybe"])

    @unit
    def maybe(text: str) -> int | None:
        return len(text) or None

    @unit
    def shown(note: str | None) -> str:
        return note or "nothing"

    class Text(Inputs):
        text: Each[str]

    pipe = define(maybe, noted, shown, inputs=Text)()
    assert pipe(text=["", "abc"])["shown"] == ["nothing", "3"] and calls == [3]


def test_take_over_runs_for_each_item_that_it_depends_on():
    seen = []

    @takes_over(reads={"noise": int, "text": str}, writes={"note": str})
    def noted(state: State) -> None:
        seen.append((state["text"], state["noise"]))
        state["note"] = f"{state['text']}{state['noise']}"

    @unit
    def noise(seed: int) -> int:
        return seed

    class Text(Inputs):
        text: Each[str]

    pipe = define(noise, noted, inputs=Text)()
    assert pipe(text=["a", "b"], num_images=2, seed=5)["note"] == ["a5", "a6", "b5", "b6"]
    assert seen == [("a", 5), ("a", 6), ("b", 5), ("b", 6)]


# -- prompts and images ------------------------------------------------------------------------------------------------


def denoise(**options):
    @unit
    def velocity(latents: Tensor, step: Step, embeds: Tensor, *, net: Net) -> Tensor:
        return net(latents, step.sigma, embeds)

    return Denoise(velocity, **options)


def test_prompt_major():
    result = text_to_image()(prompt=["a", "b"], num_images=3, seed=10, outputs=("image", "noise", "embeds", "sigmas"))
    assert [len(result[name]) for name in result] == [6, 3, 2, 1]
    assert len(result) == 6 and len(result.images) == 6


def test_image_k_is_the_single_call_with_seed_plus_k_whatever_the_batch():
    pipe = text_to_image()
    batch = pipe(prompt=["a", "bb"], negative_prompt=["c", "d"], num_images=3, seed=10, outputs=("latents",))["latents"]
    for item, made in enumerate(batch):
        prompt, k = divmod(item, 3)
        single = pipe(prompt=["a", "bb"][prompt], negative_prompt=["c", "d"][prompt], seed=10 + k, outputs=("latents",))
        assert torch.equal(single.latents, made)


def test_one_negative_for_many_prompts():
    pipe = text_to_image()
    pipe(prompt=["a", "b"], negative_prompt="n", seed=1)
    assert pipe.encoder.texts == ["a", "b", "n"]


def test_many_negatives_for_one_prompt():
    assert len(text_to_image()(prompt="a", negative_prompt=["n", "m"], seed=1).images) == 2


def test_what_does_not_depend_on_the_seed_is_computed_once():
    pipe = text_to_image()
    pipe(prompt="a", num_images=4, seed=1)
    assert pipe.encoder.texts == ["a", ""] and pipe.net.batches == [8] * 4  # four images, two branches


def test_a_list_of_one():
    assert len(text_to_image()(prompt=["a"], seed=1).images) == 1


def test_a_seed_is_drawn_once_and_recorded():
    pipe = text_to_image()
    first, other = pipe(prompt="a", outputs=("latents",)), pipe(prompt="a", outputs=("latents",))
    assert first.recipe.inputs["seed"] != other.recipe.inputs["seed"]
    again = pipe(prompt="a", outputs=("latents",), seed=first.recipe.inputs["seed"])
    assert torch.equal(again.latents, first.latents)


def test_a_guidance_list_is_refused():
    class Listed(TextInputs):
        guidance_scale: Each[float] = 3.0

    pipe = define(embeds, noise, sigmas, latents, denoise(), inputs=Listed, **PARTS)()
    with pytest.raises(InputError, match="guidance_scale must be one value for the whole call, got a list: it decides"):
        pipe.plan(prompt="a", guidance_scale=[2.0, 3.0])


# -- None --------------------------------------------------------------------------------------------------------------


def test_a_unit_may_not_return_none_for_a_type_that_excludes_it():
    @unit
    def broken(seed: int) -> int:
        return None

    with pytest.raises(GraphError, match=r"broken returned None for 'broken', wanted int; annotate it `int \| None`"):
        define(broken)()(seed=1)


def test_what_may_be_none_is_triggered_item_by_item():
    @unit
    def found(text: str) -> str | None:
        return text or None

    @unit
    def louder(found: str) -> str:
        return found.upper()

    @unit
    def shown(louder: str | None) -> str:
        return louder or "-"

    class Text(Inputs):
        text: Each[str]

    assert define(found, louder, shown, inputs=Text)()(text=["a", "", "b"])["shown"] == ["A", "-", "B"]


def test_a_predictor_needs_a_value_on_every_branch():
    class Pictures(Inputs):
        picture: str | None = None
        negative_picture: Annotated[str | None, NegativeOf("picture")] = None
        guidance_scale: float = 2.0
        steps: int = 1

    @unit
    def seen(picture: str) -> Tensor:
        return torch.ones(1, 3, 1, 1)

    @unit
    def predict(latents: Tensor, seen: Tensor) -> Tensor:
        return latents * seen

    with pytest.raises(
        InputError,
        match="denoise: predict needs 'seen', which is None on the guidance branch 'negative'; give its negative",
    ):
        run(
            seen,
            noise,
            sigmas,
            latents,
            Denoise(predict, optional=True),
            inputs=Pictures,
            picture="x",
            outputs=("latents",),
        )


# -- given values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [("embeds",), ("embeds", "image"), ("noise",), ("latents",), ("sigmas", "noise")])
@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
def test_what_a_call_returns_can_be_given_to_another(outputs, prompt):
    pipe = text_to_image()
    whole = pipe(prompt=prompt, seed=7, outputs=(*outputs, "image"))
    given = {name: whole[name] if len(whole[name]) > 1 else whole[name][0] for name in outputs if name != "image"}
    call = {"given": given, "outputs": ("image",)}
    if "embeds" not in outputs and "latents" not in outputs:
        call["prompt"] = prompt
    if "latents" not in outputs:
        call["seed"] = 7
    again = pipe(**call)
    assert [p.tobytes() for p in again.images] == [p.tobytes() for p in whole.images]


def test_given_values_of_each_image():
    pipe = text_to_image()
    whole = pipe(prompt=["a", "b"], num_images=2, seed=7, outputs=("noise", "latents"))
    both = [noise for _ in range(2) for noise in whole["noise"]]
    again = pipe(prompt=["a", "b"], num_images=2, seed=7, given={"noise": both}, outputs=("latents",))
    assert all(torch.equal(a, b) for a, b in zip(again["latents"], whole["latents"], strict=True))


def test_one_given_value_for_all():
    pipe = text_to_image()
    value = torch.zeros(1, 3, 8, 8)
    result = pipe(prompt=["a", "b"], seed=1, given={"noise": value}, outputs=("noise", "latents"))
    assert torch.equal(result.noise, value) and not torch.equal(*result["latents"])


def test_intermediate_values_by_name():
    class Pair(NamedTuple):
        low: int
        high: int

    @unit
    def pair(seed: int) -> Pair:
        return Pair(seed, seed + 1)

    @unit
    def total(low: int, high: int) -> int:
        return low + high

    result = define(pair, total)()(seed=2, outputs=("high", "total", "low"))
    assert (list(result), result.high, result.total, result.low) == (["high", "total", "low"], 3, 5, 2)


# -- errors ------------------------------------------------------------------------------------------------------------


class ShortInputs(Inputs):
    text: str


@unit
def read(text: str) -> Tensor:
    return torch.ones(1, len(text))


@unit
def broken(text: str, read: Tensor) -> Tensor:
    raise ZeroDivisionError("by hand")


@unit
def refused(read: Tensor) -> Tensor:
    raise InputError("refused by hand")


def test_an_error_from_within_a_unit_says_which_one_it_was():
    with pytest.raises(ZeroDivisionError) as error:
        define(read, broken, inputs=ShortInputs)()(text="a", given={"read": torch.zeros(1, 2)})
    assert error.value.__notes__ == ["in the unit 'broken'; given= brought 'read' [1, 2]"]
    with pytest.raises(ZeroDivisionError) as error:
        define(read, broken, inputs=ShortInputs)()(text="a")
    assert error.value.__notes__ == ["in the unit 'broken'"]


def test_an_error_that_says_what_is_meant_is_left_as_it_is():
    with pytest.raises(InputError, match=r"^refused by hand$") as error:
        define(read, refused, inputs=ShortInputs)()(text="a")
    assert not hasattr(error.value, "__notes__")
