"""The input `cache`: what pipelines take over from step to step, on the model in the box and on random weights."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from calotype import (
    APG,
    BlockReuse,
    ClassifierFree,
    DDPMPipeline,
    Denoise,
    DiffusionPipeline,
    FirstBlockCache,
    MagCache,
    PerturbedAttention,
    QwenImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TaylorCache,
    TeaCache,
    TextToImagePipeline,
    UNet2DConditionModel,
    UNet2DModel,
    UnitPack,
    Within,
    unit,
)
from calotype.errors import InputError
from calotype.graph.calls import read_call
from calotype.models.mini_transformer.module import MiniTransformer2DModel, TransformerBlock
from calotype.nn.double_stream import DoubleStreamBlock, JointAttention
from calotype.nn.unet_blocks import TextDownBlock, TextMidBlock
from calotype.pipelines.guidance import guidance
from calotype.pipelines.latents import Latents, keep_known
from calotype.pipelines.replay.again import replay
from calotype.pipelines.replay.recipe import recorded_inputs
from calotype.pipelines.text_to_image.units import velocity
from calotype.sampling import Step
from calotype.sampling.caching.recorded import METHODS
from calotype.sampling.parameters import Estimate
from tiny_qwen import parts
from tiny_qwen import with_weights_of as qwen_with
from tiny_sd import reference_pipeline

MODEL = "calotype/emoji-64"
CALL = {"prompt": "a red apple", "seed": 7, "steps": 8}
NOTHING = [
    FirstBlockCache(0.0),
    TeaCache(0.0),
    MagCache((1.0,), 0.0),
    TaylorCache(1),
    TaylorCache(1, of="prediction"),
    FirstBlockCache(9.0, within=(0.99, 1.0)),
]
"""Step caches that take nothing over."""

BLOCKS = 6


@pytest.fixture(scope="module")
def pipe() -> Any:
    return DiffusionPipeline.from_pretrained(MODEL, device="cpu")


@contextmanager
def runs(*kinds: Any) -> Iterator[list[Any]]:
    """The modules of these classes that run, in order."""
    seen: list[Any] = []

    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(self)
            return method(self, *args, **kwargs)

        return forward

    with patch.multiple(kinds[0], forward=noting(kinds[0].forward)):
        if len(kinds) == 1:
            yield seen
            return
        with patch.multiple(kinds[1], forward=noting(kinds[1].forward)):
            yield seen


def made(pipe: Any, **inputs: Any) -> tuple[Tensor, str]:
    """The latents of a call, and at which steps work was taken over: `x` where it was."""
    with pipe.stream(**{**CALL, "outputs": ("latents",), **inputs}) as stream:
        steps = "".join("x" if event.reused else "." for event in stream)
    latents = stream.result["latents"]
    return torch.cat(list(latents)) if isinstance(latents, list) else latents, steps


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


@pytest.mark.parametrize("cache", NOTHING, ids=repr)
def test_a_cache_that_takes_nothing_over_changes_no_bit(pipe: Any, cache: Any) -> None:
    plain, _ = made(pipe)
    cached, steps = made(pipe, cache=cache)
    assert steps == "." * 8
    assert torch.equal(plain, cached)


@pytest.mark.parametrize(
    ("cache", "taken"),
    [
        (FirstBlockCache(0.5), 1),  # the first block runs all the same
        (TeaCache(0.5), 0),
        (MagCache((1.0, 0.95), 0.2), 0),
        (TaylorCache(3, warm_up=1), 0),
        (TaylorCache(3, warm_up=1, of="prediction"), 0),
    ],
    ids=repr,
)
def test_blocks_that_are_left_out_do_not_run(pipe: Any, cache: Any, taken: int) -> None:
    plain, _ = made(pipe)
    with runs(TransformerBlock) as seen:
        cached, steps = made(pipe, cache=cache)
    assert steps[0] == "."
    assert steps.count("x") >= 2
    assert len(seen) == steps.count(".") * BLOCKS + steps.count("x") * taken
    assert 0 < apart(plain, cached) < 0.5 * float(plain.abs().mean())


def test_more_is_taken_over_at_a_higher_threshold_and_the_result_moves_further(pipe: Any) -> None:
    seeds = [{"seed": seed, "steps": 12} for seed in (1, 2)]
    plain = [made(pipe, **call)[0] for call in seeds]
    for kind in (FirstBlockCache, TeaCache):
        counts, errors = [], []
        for threshold in (0.0, 0.2, 1.0):
            found = [made(pipe, **call, cache=kind(threshold)) for call in seeds]
            counts.append(sum(steps.count("x") for _, steps in found))
            errors.append(sum(apart(one, two) for one, (two, _) in zip(plain, found, strict=True)))
        assert counts == sorted(set(counts)), (kind, counts)
        assert errors == sorted(set(errors)), (kind, errors)


def test_a_line_continues_better_than_what_was_kept_as_it_was(pipe: Any) -> None:
    errors = []
    for degree in (0, 1):
        cache = TaylorCache(2, degree, of="prediction")
        calls = [{"seed": seed, "steps": 24} for seed in (1, 2)]
        errors.append(sum(apart(made(pipe, **c)[0], made(pipe, **c, cache=cache)[0]) for c in calls))
    assert errors[1] < errors[0], errors


def test_where_and_how_often_in_a_row_work_is_taken_over(pipe: Any) -> None:
    assert made(pipe, cache=FirstBlockCache(50.0))[1] == ".xxxxxxx"
    assert made(pipe, cache=FirstBlockCache(50.0, most=2))[1] == ".xx.xx.x"
    assert made(pipe, cache=FirstBlockCache(50.0, within=(0.5, 0.8)))[1] == "....xxx."


class InTurn(TextToImagePipeline):
    """The same, with its branches predicted one after the other."""

    units = tuple(
        Denoise(velocity, guidance=guidance, after_step=[keep_known], cache="cache", batch_branches=False)
        if node.is_loop
        else node
        for node in TextToImagePipeline.units
    )


@pytest.mark.parametrize(
    ("policy", "cache"),
    [
        (ClassifierFree(3.0), FirstBlockCache(0.3)),
        (APG(5.0, momentum=-0.5), TeaCache(0.4)),
        (Within(APG(4.0), (0.25, 0.75)), FirstBlockCache(0.5)),
        (PerturbedAttention(2.0, policy=ClassifierFree(3.0), interval=(0.0, 0.6)), TaylorCache(3, warm_up=1)),
        (APG(4.0), TaylorCache(2, warm_up=1, of="prediction")),
    ],
    ids=repr,
)
def test_branches_in_one_batch_and_in_turn_take_over_the_same(pipe: Any, policy: Any, cache: Any) -> None:
    together, steps = made(pipe, guidance=policy, cache=cache)
    in_turn, same = made(InTurn(**pipe.components, device="cpu"), guidance=policy, cache=cache)
    assert steps == same
    assert 0 < steps.count("x") < 8
    torch.testing.assert_close(together, in_turn, rtol=1e-4, atol=1e-4)


def test_items_of_a_batch_go_by_the_one_that_moves_the_furthest(pipe: Any) -> None:
    cache = FirstBlockCache(0.4)
    alone = [made(pipe, prompt=prompt, cache=cache) for prompt in ("a red apple", "a blue car")]
    together, steps = made(pipe, prompt=["a red apple", "a blue car"], cache=cache)
    assert steps.count("x") <= min(taken.count("x") for _, taken in alone)
    twice, same = made(pipe, prompt=["a red apple", "a red apple"], cache=cache)
    assert same == alone[0][1]
    torch.testing.assert_close(twice[1:], alone[0][0], rtol=1e-4, atol=1e-4)
    assert together.shape == twice.shape


@pytest.mark.parametrize("count", [1, 3])
def test_items_are_continued_each_from_their_own_past(pipe: Any, count: int) -> None:
    cache = TaylorCache(3, warm_up=1)
    both = pipe(
        **{**CALL, "prompt": ["a red apple", "a blue car"]}, cache=cache, num_images=count, outputs=("latents",)
    )
    assert len(both["latents"]) == 2 * count
    alone, _ = made(pipe, prompt="a blue car", seed=CALL["seed"] + count - 1, cache=cache)
    torch.testing.assert_close(both["latents"][-1], alone, rtol=1e-4, atol=1e-4)


def test_calls_at_the_same_time_keep_their_pasts_apart(pipe: Any) -> None:
    calls = [
        {**CALL, "seed": seed, "cache": cache}
        for seed in (1, 2)
        for cache in (FirstBlockCache(0.3), TeaCache(0.3), TaylorCache(2, warm_up=1), None)
    ]
    expected = [pipe(**call).image.tobytes() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda call: pipe(**call).image.tobytes(), calls, timeout=60)) == expected
    streams = [pipe.stream(**call) for call in calls]
    for _ in range(8):
        for stream in streams:
            next(stream).preview()
    assert [stream.finish().image.tobytes() for stream in streams] == expected


def test_no_network_keeps_a_trace(pipe: Any) -> None:
    before = {name: (set(vars(module)), module.training) for name, module in pipe.transformer.named_modules()}
    generation = pipe._generations.of("transformer", pipe.transformer)
    made(pipe, cache=FirstBlockCache(0.3))
    assert {n: (set(vars(m)), m.training) for n, m in pipe.transformer.named_modules()} == before
    assert pipe._generations.of("transformer", pipe.transformer) == generation


def test_the_recipe_holds_the_cache_and_makes_the_same_again(pipe: Any, tmp_path: Path) -> None:
    cache = TeaCache(0.3, (0.5, 1.0, 0.0), within=(0.0, 0.9), most=4)
    result = pipe(**CALL, cache=cache)
    assert result.recipe.inputs["cache"] == {
        "method": "TeaCache", "within": [0.0, 0.9], "most": 4, "threshold": 0.3, "coefficients": [0.5, 1.0, 0.0],
    }  # fmt: skip
    assert read_call(type(pipe).Inputs, result.recipe.inputs, strict=False).values["cache"] == cache
    result.save(tmp_path / "a.png")
    assert replay(tmp_path / "a.png").identical
    assert pipe(**CALL).image.tobytes() != result.image.tobytes()


def test_a_plan_and_its_peak_take_a_cache(pipe: Any) -> None:
    plain = pipe.plan(**CALL).predicted_peak
    for cache in (FirstBlockCache(0.5), TaylorCache(4, of="prediction")):
        assert pipe.plan(**CALL, cache=cache).predicted_peak >= plain


def test_streamed_weights_come_for_the_blocks_that_run(pipe: Any) -> None:
    wanted, steps = made(pipe, cache=FirstBlockCache(0.3))
    small = TextToImagePipeline.from_pretrained(
        MODEL, device="cpu", memory={"cpu": "40MiB", "transformer": "stream"}, memo=0
    )
    found, same = made(small, cache=FirstBlockCache(0.3))
    assert same == steps
    assert torch.equal(found, wanted)


# -- what a network offers -------------------------------------------------------------------------------------------


def test_the_embedded_models_cue_is_what_enters_its_first_attention(pipe: Any) -> None:
    entered: list[Tensor] = []
    attend = TransformerBlock.attend

    def watched(self: Any, x: Tensor, *rest: Any) -> Tensor:
        entered.append(x)
        return attend(self, x, *rest)

    cues: list[Tensor] = []
    cue = MiniTransformer2DModel._cue
    with (
        patch.object(TransformerBlock, "attend", watched),
        patch.object(MiniTransformer2DModel, "_cue", lambda *args: cues.append(cue(*args)) or cues[-1]),
    ):
        made(pipe, cache=TeaCache(0.0), steps=2)
    assert len(cues) == 2
    assert torch.equal(cues[0], entered[0])
    assert torch.equal(cues[1], entered[BLOCKS])


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("sd")
    reference_pipeline(diffusers.StableDiffusionPipeline, unet={"layers_per_block": 2}).save_pretrained(path)
    return DiffusionPipeline.from_pretrained(path, device="cpu")


SD = {"prompt": "a red cat", "seed": 3, "num_inference_steps": 6, "guidance_scale": 3.0}


def drawn(pipe: Any, **inputs: Any) -> tuple[Tensor, str]:
    with pipe.stream(**{**SD, "outputs": ("latents",), **inputs}) as stream:
        steps = "".join("x" if event.reused else "." for event in stream)
    return torch.cat(list(stream.result["latents"])), steps


@pytest.mark.parametrize("cache", [c for c in NOTHING if not isinstance(c, TeaCache)], ids=repr)
def test_a_unet_with_a_cache_that_takes_nothing_over(sd: Any, cache: Any) -> None:
    plain, _ = drawn(sd)
    cached, steps = drawn(sd, cache=cache)
    assert steps == "......"
    assert torch.equal(plain, cached)


def test_a_unets_outermost_layers_run_at_every_step(sd: Any) -> None:
    plain, _ = drawn(sd)
    with runs(TextDownBlock, TextMidBlock) as seen:
        cached, steps = drawn(sd, cache=TaylorCache(3, 0, 0))
    assert steps == ".xx.xx"
    branches = len([m for m in seen if isinstance(m, TextMidBlock)]) // 2
    levels = [[*sd.unet.down_blocks].index(m) for m in seen if isinstance(m, TextDownBlock)]
    # a step that computes passes the first level in two parts, one that takes over in the first part alone
    assert levels == ([0, 0, 1] * branches + [0] * 2 * branches) * 2
    assert 0 < apart(plain, cached) < float(plain.abs().mean())


def test_a_unet_goes_by_the_maps_of_its_first_layer(sd: Any) -> None:
    assert [drawn(sd, cache=FirstBlockCache(t))[1].count("x") for t in (0.0, 100.0)] == [0, 5]
    with pytest.raises(InputError, match="UNet2DConditionModel has no input of a first block"):
        drawn(sd, cache=TeaCache())


@pytest.mark.parametrize(
    "fields",
    [
        {"layers_per_block": 1},
        {"block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",),
         "up_block_types": ("CrossAttnUpBlock2D",)},
        {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "mid_block_type": None,
         "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 3},
    ],
)  # fmt: skip
def test_unets_of_other_shapes_are_taken_apart_the_same_way(fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = UNet2DConditionModel(**{
        "block_out_channels": (8, 16), "layers_per_block": 2, "norm_num_groups": 4, "cross_attention_dim": 16,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), **fields,
    }).eval()  # fmt: skip
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    caching = TaylorCache(9, 0, 0).start(1, "predicted")
    with torch.no_grad():
        plain = net(x, 10, text).sample
        for index, other in enumerate((x, x, x + 1)):
            caching.begin(Step(index, 3, 1.0, 10.0, 0.5), ["a", "b"])
            cached = net(other, 10, text, cache=caching.steering(["a", "b"])[0].cache).sample
            assert torch.allclose(cached, plain) == (index < 2), (
                "what is taken over gives the same, and fresh maps count"
            )


def test_qwen_image_takes_over_what_its_blocks_add_to_the_image(tmp_path: Path) -> None:
    pipe = qwen_with(QwenImagePipeline, parts(), tmp_path)
    call = {"prompt": "a red cat", "negative_prompt": "blue", "seed": 3, "num_inference_steps": 6, "height": 32,
            "width": 48, "outputs": ("latents",)}  # fmt: skip

    def run(cache: Any) -> tuple[Tensor, str, int]:
        with runs(DoubleStreamBlock) as seen, pipe.stream(**call, cache=cache) as stream:
            steps = "".join("x" if event.reused else "." for event in stream)
        return torch.cat(list(stream.result["latents"])), steps, len(seen)

    plain, _, full = run(None)
    for cache in NOTHING:
        same, steps, ran = run(cache)
        assert torch.equal(same, plain)
        assert (steps, ran) == ("......", full)
    for cache, share in ((FirstBlockCache(9.0, most=1), 1), (TeaCache(9.0, most=1), 0), (TaylorCache(2, 1, 0), 0)):
        cached, steps, ran = run(cache)
        assert steps == ".x.x.x"
        assert ran == full // 2 + full // 4 * share, "the first of two blocks runs where it is gone by"
        assert 0 < apart(plain, cached) < 0.5 * float(plain.abs().mean())


def test_qwen_images_cue_is_what_enters_its_first_attention(tmp_path: Path) -> None:
    pipe = qwen_with(QwenImagePipeline, parts(), tmp_path)
    cues, cue = [], type(pipe.transformer)._cue
    with (
        runs(JointAttention),
        patch.object(type(pipe.transformer), "_cue", lambda *args: cues.append(cue(*args)) or cues[-1]),
        watched_arguments(JointAttention) as entered,
    ):
        pipe(prompt="a cat", seed=3, num_inference_steps=2, height=32, width=32, guidance_scale=1.0,
             cache=TeaCache(0.0), outputs=("latents",))  # fmt: skip
    assert len(cues) == 2
    assert torch.equal(cues[0], entered[0])
    assert torch.equal(cues[1], entered[2])


@contextmanager
def watched_arguments(kind: Any) -> Iterator[list[Tensor]]:
    """The first argument of every run of a class."""
    entered: list[Tensor] = []
    forward = kind.forward
    with patch.object(kind, "forward", lambda self, x, *rest: entered.append(x) or forward(self, x, *rest)):
        yield entered


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [TextToImagePipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, DDPMPipeline])
def test_every_pipeline_takes_one(cls: Any) -> None:
    cache = TaylorCache(3, of="prediction")
    inputs = {} if cls is DDPMPipeline else {"prompt": "a red apple"}
    call = read_call(cls.Inputs, {**inputs, "cache": cache})
    assert recorded_inputs(cls.Inputs, call.values)["cache"]["method"] == "TaylorCache"


def test_a_schema_names_the_methods() -> None:
    schema = TextToImagePipeline.Inputs.model_json_schema()["properties"]["cache"]
    assert set(schema["anyOf"][0]["properties"]["method"]["enum"]) == set(METHODS)


def test_a_network_that_offers_no_blocks_has_its_predictions_taken_over() -> None:
    pipe = DDPMPipeline(unet=UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval(), device="cpu")  # fmt: skip
    with pytest.raises(InputError, match=r"cache: FirstBlockCache takes over .* predicted offers none; take TaylorC"):
        pipe.stream(seed=1, num_inference_steps=6, cache=FirstBlockCache(0.1))
    with runs(UNet2DModel) as seen:
        pipe(seed=1, num_inference_steps=6, cache=TaylorCache(2, warm_up=0, of="prediction"))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (0.1, r"cache: must be a step cache, such as FirstBlockCache\(threshold=0.1\) or .*, got 0.1"),
        (TeaCache, "cache: must be a step cache"),
        ({"method": "TeaCashe"}, "cache has no method 'TeaCashe'; did you mean 'TeaCache'"),
        ({"method": "TeaCache", "threshold": -1}, "threshold must be 0 or more, got -1"),
        (
            {"method": "FirstBlockCache", "threshold": 0.1, "within": (0.9, 0.1)},
            r"FirstBlockCache: within must be two increasing numbers between 0 and 1, got \(0\.9, 0\.1\); "
            r"\(0\.0, 1\.0\) lets any step take over",
        ),
    ],
)
def test_what_is_no_cache(pipe: Any, cache: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.stream(**CALL, cache=cache)


def test_a_predictor_that_keeps_its_cache_to_itself_is_found_out(pipe: Any) -> None:
    @unit
    def silent(latents: Latents, pooled_embeds: Float[Tensor, "b c"], reuse: BlockReuse | None) -> Latents:
        return latents

    loop = Denoise(silent, guidance=guidance, cache="cache", after_step=[keep_known])
    units = tuple(loop if node.is_loop else node for node in TextToImagePipeline.units)
    body = {"units": units, "__module__": __name__}
    silenced = type("Silent", (TextToImagePipeline,), body)
    with pytest.raises(InputError, match="silent takes a BlockReuse and gives it to no network"):
        silenced(**pipe.components, device="cpu")(prompt="a cat", guidance_scale=1.0, cache=FirstBlockCache(0.1))


def test_a_gradient_needs_the_whole_network(pipe: Any) -> None:
    @unit
    def small(latents: Latents, estimate: Estimate) -> Tensor:
        return estimate.square().mean((1, 2, 3))

    guided = pipe.with_units(UnitPack((), objectives=(small,)))
    assert guided(**CALL).image is not None
    with pytest.raises(InputError, match="small guides by the gradient of the whole network; leave cache out"):
        guided(**CALL, cache=FirstBlockCache(0.1))
