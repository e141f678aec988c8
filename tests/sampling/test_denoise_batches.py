"""Branches and items that make no batch: which share one, which run in turn, and which are refused."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import pytest
import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch, Tag
from calotype.graph.hints import Each, Pad
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.nn.perturbation import Perturbation
from calotype.sampling import (
    ClassifierFree,
    Denoise,
    Guidance,
    SkipLayers,
)
from stubs import embeds, latents, noise, pipeline, sigmas, velocity

START = (embeds, noise, sigmas, latents)


class Unguided(Inputs):
    prompt: str = ""
    steps: int = 4


@dataclass(frozen=True)
class Skipping:
    """Two branches on the same inputs, the second with a tag and an adapter."""

    tag: str | None = "skip layers"
    adapters: tuple[str, ...] | None = None

    def branches(self, twins):
        return (POSITIVE, Branch("perturbed", tag=self.tag, adapters=self.adapters))

    def active(self, step):
        return ("positive", "perturbed")

    def combine(self, predictions, step):
        return predictions["positive"] * 2 - predictions["perturbed"]


@pytest.mark.parametrize("marks", [{"tag": "skip layers"}, {"tag": None, "adapters": ()}])
def test_tags_and_adapters_forbid_one_batch(marks):
    @unit
    def guidance() -> Guidance:
        return Skipping(**marks)

    pipe = pipeline(*START, Denoise(velocity, guidance=guidance, batch_branches=True), inputs=Unguided)
    pipe(prompt="a", seed=1, steps=2, outputs=("latents",))
    assert pipe.net.batches == [1, 1, 1, 1] and pipe.encoder.texts == ["a"]


@dataclass(frozen=True)
class Variant(Tag):
    """Asks for another variant."""


class Another(Tag):
    """Asks for something that no predictor here has."""


def test_branches_of_one_tag_share_a_batch_and_the_predictor_is_told_the_tag():
    seen = []

    @unit
    def guidance() -> Guidance:
        return SkipLayers(2.0, policy=ClassifierFree(3.0))

    @unit
    def predict(latents: Tensor, perturbation: Perturbation | None, variant: Variant | None, embeds: Tensor) -> Tensor:
        seen.append((perturbation, variant, len(latents)))
        return latents * embeds.mean((1, 2)).view(-1, 1, 1, 1)

    @unit
    def prompted(prompt: str) -> Tensor:
        return torch.full((1, 2, 4), float(len(prompt)))

    units = (prompted.renamed(prompted="embeds"), noise, sigmas, latents)
    pipe = pipeline(*units, Denoise(predict, guidance=guidance, batch_branches=True), inputs=Unguided)
    pipe(prompt="abc", seed=1, steps=1, outputs=("latents",))
    assert seen == [(None, None, 2), (Perturbation("skip"), None, 1)]


def test_a_tag_that_the_predictor_has_no_parameter_for_is_refused_in_the_plan():
    @unit
    def guidance() -> Guidance:
        return Skipping(tag=Another())

    pipe = pipeline(*START, Denoise(velocity, guidance=guidance), inputs=Unguided)
    with pytest.raises(InputError, match="branch 'perturbed', but velocity has no parameter of the type Another"):
        pipe.plan(prompt="a", steps=1, outputs=("latents",))


def test_a_predictor_that_is_told_its_branch_runs_in_turn():
    seen = []

    @unit
    def guidance() -> Guidance:
        return Skipping()

    @unit
    def predict(latents: Tensor, branch: Branch) -> Tensor:
        seen.append((branch.name, branch.tag, len(latents)))
        return latents

    pipe = pipeline(*START, Denoise(predict, guidance=guidance, batch_branches=True), inputs=Unguided)
    pipe(seed=1, steps=1, outputs=("latents",))
    assert seen == [("positive", None, 1), ("perturbed", "skip layers", 1)]


@unit
def words(prompt: str) -> Tensor:
    return torch.ones(1, len(prompt.split()), 4)


class Tokens(NamedTuple):
    words: Annotated[Tensor, Pad(1)]
    mask: Annotated[Tensor, Pad(1)]


@unit
def tokens(prompt: str) -> Tokens:
    count = len(prompt.split())
    return Tokens(torch.ones(1, count, 4), torch.ones(1, count, dtype=torch.bool))


def counted(seen, *extra):
    @unit
    def predict(latents: Tensor, words: Tensor) -> Tensor:
        seen.append((len(latents), words.shape[1]))
        return latents

    @unit
    def masked(latents: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        seen.append((len(latents), words.shape[1], mask.sum(1).tolist()))
        return latents * (words * mask[..., None]).sum(1).mean(1).view(-1, 1, 1, 1)

    return masked if extra else predict


def test_branches_of_unequal_length_run_in_turn_where_no_rule_evens_them_out():
    seen = []
    pipe = pipeline(words, noise, sigmas, latents, Denoise(counted(seen)))
    pipe(prompt="a b c", negative_prompt="d", seed=1, steps=1, outputs=("latents",))
    assert seen == [(1, 3), (1, 1)]
    with pytest.raises(InputError, match=r"words has the shapes \(1, 3, 4\), \(1, 1, 4\) for different items"):
        pipeline(words, noise, sigmas, latents, Denoise(counted(seen), batch_branches=True))(
            prompt="a b c", negative_prompt="d", seed=1, outputs=("latents",)
        )


def test_prompts_of_unequal_length_without_a_rule_are_refused():
    pipe = pipeline(words, noise, sigmas, latents, Denoise(counted([])))
    with pytest.raises(
        InputError, match=r"words has the shapes \(1, 1, 4\), \(1, 2, 4\) for different items, which make no"
    ):
        pipe(prompt=["a", "a b"], guidance_scale=1.0, seed=1, outputs=("latents",))


def test_the_pad_rule_of_the_wire_evens_out_prompts_and_branches():
    seen = []
    loop = Denoise(counted(seen, "masked"))
    pipe = pipeline(tokens, noise, sigmas, latents, loop)
    batch = pipe(prompt=["a b c", "a"], negative_prompt="d e", seed=1, steps=1, outputs=("latents",))["latents"]
    assert seen == [(4, 3, [3, 1, 2, 2])]
    single = pipe(prompt="a", negative_prompt="d e", seed=1, steps=1, outputs=("latents",)).latents
    assert torch.allclose(batch[1], single, atol=1e-6)


def test_pictures_of_unequal_size_make_no_batch():
    class Sized(Inputs):
        size: Each[int]
        steps: int = 1

    @unit
    def sized(seed: int, size: int) -> Tensor:
        return torch.zeros(1, 3, size, size)

    pipe = pipeline(sized, sigmas, Denoise(counted_plain, latents="sized", guidance=None), inputs=Sized)
    with pytest.raises(InputError, match=r"sized has the shapes \(1, 3, 8, 8\), \(1, 3, 16, 16\) for different items"):
        pipe(size=[8, 16], seed=1, outputs=("sized",))


@unit
def counted_plain(latents: Tensor) -> Tensor:
    return latents
