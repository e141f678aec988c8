"""The input `guidance`: any policy in any pipeline, on the model in the box and on Stable Diffusion's declaration."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype import (
    APG,
    AutoGuidance,
    CFGZeroStar,
    ClassifierFree,
    Denoise,
    DiffusionPipeline,
    MiniTransformer2DModel,
    NoGuidance,
    Pad,
    PerturbedAttention,
    Rescaled,
    SkipLayers,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    Step,
    TextToImagePipeline,
    Weak,
    Within,
    unit,
)
from calotype.errors import InputError, UnusedInput
from calotype.graph.calls import read_call
from calotype.pipelines.guidance import guidance
from calotype.pipelines.latents import Latents
from calotype.pipelines.replay.recipe import recorded_inputs
from calotype.pipelines.text_to_image.units import velocity

CALL = {"prompt": "a red apple", "seed": 7, "steps": 4, "outputs": ("latents",)}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64", device="cpu")


@contextmanager
def watched(network: torch.nn.Module) -> Iterator[list[int]]:
    """The batch sizes that a network is shown, in order."""
    seen: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        handle.remove()


def latents_of(pipe: Any, **inputs: Any) -> Tensor:
    made: Tensor = pipe(**{**CALL, **inputs}).latents
    return made


@pytest.mark.parametrize(
    ("policy", "batches"),
    [
        (NoGuidance(), [1, 1, 1, 1]),
        (APG(1.0), [1, 1, 1, 1]),
        (ClassifierFree(3.0), [2, 2, 2, 2]),
        (APG(3.0), [2, 2, 2, 2]),
        (CFGZeroStar(3.0), [1, 2, 2, 2]),
        (Within(APG(3.0), (0.25, 0.75)), [1, 2, 2, 1]),
        (PerturbedAttention(0.0), [1, 1, 1, 1]),
        (PerturbedAttention(2.0), [1, 1] * 4),  # its own batch: another variant of the network
        (SkipLayers(2.0, policy=ClassifierFree(3.0), interval=(0.0, 0.5)), [2, 1, 2, 1, 2, 2]),
    ],
    ids=repr,
)
def test_the_network_runs_no_more_than_the_policy_needs(pipe: Any, policy: Any, batches: list[int]) -> None:
    with watched(pipe.transformer) as seen:
        assert latents_of(pipe, guidance=policy).isfinite().all()
    assert seen == batches


def test_a_policy_is_the_loop_written_out(pipe: Any) -> None:
    assert torch.equal(latents_of(pipe, guidance=ClassifierFree(4.0, 0.5)),
                       latents_of(pipe, guidance_scale=4.0, guidance_rescale=0.5))  # fmt: skip
    assert torch.equal(latents_of(pipe, guidance=NoGuidance()), latents_of(pipe, guidance_scale=1.0))
    assert torch.equal(latents_of(pipe, guidance=PerturbedAttention(0.0)), latents_of(pipe, guidance_scale=1.0))
    plain = latents_of(pipe, guidance=APG(4.0, eta=1.0, momentum=0.0, norm_threshold=None))
    torch.testing.assert_close(plain, latents_of(pipe, guidance_scale=4.0), rtol=1e-3, atol=1e-3)


def test_momentum_goes_from_step_to_step_and_not_from_call_to_call(pipe: Any) -> None:
    policy = APG(5.0, momentum=-0.5)
    first = latents_of(pipe, guidance=policy)
    assert torch.equal(first, latents_of(pipe, guidance=policy))
    assert not torch.allclose(first, latents_of(pipe, guidance=APG(5.0, momentum=0.0)))
    one = latents_of(pipe, guidance=policy, steps=1)
    assert torch.equal(one, latents_of(pipe, guidance=APG(5.0, momentum=0.0), steps=1))


def test_items_are_guided_as_they_are_alone(pipe: Any) -> None:
    policy = Rescaled(SkipLayers(1.5, policy=APG(4.0)), 0.5)
    together = pipe(**{**CALL, "prompt": ["a red apple", "a blue car"]}, guidance=policy)["latents"]
    alone = latents_of(pipe, prompt="a blue car", guidance=policy)
    torch.testing.assert_close(together[1], alone, rtol=1e-4, atol=1e-4)


def test_the_recipe_holds_the_policy_and_makes_the_same_again(pipe: Any) -> None:
    policy = Within(SkipLayers(2.0, (1, 2), policy=APG(4.0)), (0.0, 0.5))
    made = pipe(prompt="a red apple", seed=7, steps=4, guidance=policy)
    call = read_call(type(pipe).Inputs, made.recipe.inputs, strict=False)
    assert call.values["guidance"] == policy
    assert pipe(prompt="a red apple", seed=7, steps=4, guidance=made.recipe.inputs["guidance"]).image == made.image


@pytest.mark.parametrize("cls", [TextToImagePipeline, StableDiffusionPipeline, StableDiffusionXLPipeline])
@pytest.mark.parametrize("policy", [APG(5.0), PerturbedAttention(3.0, policy=CFGZeroStar(4.0))], ids=repr)
def test_every_pipeline_takes_it(cls: Any, policy: Any) -> None:
    call = read_call(cls.Inputs, {"prompt": "a red apple", "guidance": policy})
    loop = next(node for node in cls.graph.nodes if node.is_loop)
    names = [b.name for b in loop.branches(call.values, frozenset({"prompt"}))]
    assert names == [b.name for b in policy.branches(frozenset({"prompt"}))]
    assert recorded_inputs(cls.Inputs, call.values)["guidance"]["method"] == type(policy).__name__


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            {"guidance": 5.0},
            InputError,
            r"guidance: must be a guidance policy, such as APG\(scale=5.0\) or .*, got 5.0",
        ),
        ({"guidance": APG}, InputError, "must be a guidance policy"),
        ({"guidance": {"method": "AGP"}}, InputError, "guidance has no method 'AGP'.*did you mean 'APG'"),
        ({"guidance": APG(5.0), "guidance_scale": 4.0}, InputError, "so guidance_scale has no effect; leave"),
        ({"guidance": APG(5.0), "guidance_rescale": 0.4}, InputError, "so guidance_rescale has no effect; leave"),
        (
            {"guidance": APG(1.0), "negative_prompt": "a car"},
            UnusedInput,
            "negative_prompt was given, but guidance is off",
        ),
        ({"guidance": PerturbedAttention(2.0), "negative_prompt": "a car"}, UnusedInput, "negative_prompt was given"),
        ({"guidance": AutoGuidance(2.0)}, InputError, "branch 'weak', but velocity has no parameter of the type Weak"),
        (
            {"guidance": SkipLayers(2.0, (2,), Rescaled(SkipLayers(1.0, (3,))))},
            InputError,
            "denoise: the guidance asks for two different branches 'skipped'",
        ),
        ({"guidance": SkipLayers(2.0, (9,))}, InputError, "has 6 blocks, 0 to 5, and cannot perturb 9"),
    ],
)
def test_what_cannot_guide_is_refused(pipe: Any, inputs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pipe(**CALL, **inputs)


def test_a_negative_prompt_counts_under_another_policy(pipe: Any) -> None:
    plain = latents_of(pipe, guidance=APG(5.0))
    assert not torch.allclose(plain, latents_of(pipe, guidance=APG(5.0), negative_prompt="a green apple"))


@unit
def either(
    latents: Latents,
    step: Step,
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    pooled_embeds: Float[Tensor, "b c"],
    weak: Weak | None,
    *,
    transformer: MiniTransformer2DModel,
    weaker: MiniTransformer2DModel,
) -> Latents:
    """The velocity, of the weaker network on its branch."""
    network = weaker if weak else transformer
    return velocity.fn(latents, step, prompt_embeds, prompt_mask, pooled_embeds, *(None,) * 4, transformer=network)


class Autoguided(TextToImagePipeline):
    weaker: MiniTransformer2DModel

    units = tuple(
        Denoise(either, guidance=guidance, cache="cache") if n.is_loop else n for n in TextToImagePipeline.units
    )


def test_autoguidance_by_a_second_network(pipe: Any) -> None:
    weaker = MiniTransformer2DModel(**pipe.transformer.config.model_dump())
    weaker.load_state_dict({k: v * 0.97 for k, v in pipe.transformer.state_dict().items()})
    guided = Autoguided(**pipe.components, weaker=weaker.eval(), device="cpu")
    with watched(pipe.transformer) as strong, watched(weaker) as weak:
        made = latents_of(guided, guidance=AutoGuidance(2.0))
    assert strong == weak == [1, 1, 1, 1]
    with watched(weaker) as weak:
        plain = latents_of(guided, guidance=AutoGuidance(1.0))
    assert weak == [] and torch.equal(plain, latents_of(pipe, guidance=NoGuidance()))
    assert not torch.allclose(made, plain)
    same = Autoguided(**pipe.components, weaker=pipe.transformer, device="cpu")
    torch.testing.assert_close(latents_of(same, guidance=AutoGuidance(2.0)), plain, rtol=1e-4, atol=1e-4)
