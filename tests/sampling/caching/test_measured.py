"""Ratios of a `MagCache`, measured: on layers whose sizes are known, on the model in the box and on a U-Net."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from torch import Tensor

from calotype import DiffusionPipeline, MagCache
from calotype.errors import InputError
from calotype.models.mini_transformer.module import MiniTransformer2DModel, TransformerBlock
from calotype.nn.reuse import BlockPass, residual_pass
from calotype.sampling.caching.measured import Measuring, measured_ratios, sizes
from calotype.sampling.caching.recorded import from_json, to_json
from calotype.sampling.step import Step
from tiny_sd import reference_pipeline

CALL = {"prompt": "a red apple", "seed": 7, "steps": 6}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64", device="cpu")


def noted(added: list[dict[str, Tensor]], together: bool) -> list[list[float]]:
    """What is noted where a network's blocks add these tensors on branches, in one batch or one after the other."""
    policy = Measuring()
    caching = policy.start(1, "predicted")
    for index, step in enumerate(added):
        caching.begin(Step(index, len(added), 1.0, 0.0, 0.5), tuple(step))
        for names in [tuple(step)] if together else [(name,) for name in step]:
            start = torch.zeros_like(torch.cat([step[name] for name in names]))
            more = torch.cat([step[name] for name in names])
            (steering,) = caching.steering(names)
            layers = [lambda x, more=more: x + more]
            steering.cache.passed(residual_pass("Net", layers, start, lambda x: x, lambda start=start: start))
        assert not caching.reused
    return policy.loops


@pytest.mark.parametrize("together", [True, False])
def test_a_ratio_is_the_mean_over_tokens_of_the_branch_that_decides(together: bool) -> None:
    # two tokens: the first grows to 2 and 4 times its size, the second stays and is then halved
    sizes_of = [((3.0, 4.0), (1.0, 0.0)), ((6.0, 8.0), (0.0, 1.0)), ((24.0, 32.0), (0.5, 0.0))]
    added = [{"positive": torch.tensor([tokens]), "negative": torch.rand(1, 2, 2)} for tokens in sizes_of]
    assert noted(added, together) == [pytest.approx([1.0, 1.5, 2.25])]


def test_a_branch_that_comes_later_does_not_count() -> None:
    one = torch.ones(1, 2, 4)
    steps = [{"positive": one}, {"positive": one, "negative": 9 * one}, {"positive": 3 * one, "negative": one}]
    assert noted(steps, together=False) == [pytest.approx([1.0, 1.0, 3.0])]


def test_sizes_are_those_of_tokens_and_of_places() -> None:
    assert sizes(torch.ones(2, 3, 16)).shape == (2, 3)
    assert sizes(torch.ones(6, 16)).tolist() == [4.0] * 6
    assert sizes(torch.ones(2, 16, 3, 5)).shape == (2, 3, 5)
    assert sizes(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_ratios_are_those_of_what_the_blocks_add(pipe: Any) -> None:
    """Beside a record of what enters the first block of the network and leaves the last one."""
    entered: list[Tensor] = []
    left: list[Tensor] = []
    forward = TransformerBlock.forward

    def watched(self: Any, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        out = forward(self, x, *rest, **more)
        if self is pipe.transformer.blocks[0]:
            entered.append(x)
        if self is pipe.transformer.blocks[-1]:
            left.append(out)
        return out

    with patch.object(TransformerBlock, "forward", watched):
        cache = MagCache.measured(pipe, CALL, threshold=0.2)
    added = [(after - before)[:1].norm(dim=-1) for before, after in zip(entered, left, strict=True)]
    expected = [1.0, *(float((now / before).mean()) for before, now in pairwise(added))]
    assert len(expected) == 6
    assert cache.ratios == pytest.approx(expected, abs=1e-4)
    assert len(set(cache.ratios)) > 3
    assert cache.threshold == 0.2


def test_measuring_changes_nothing_and_the_policy_is_one_of_json(pipe: Any) -> None:
    plain, seen = pipe(**CALL).image, []
    again = MagCache.measured(lambda **inputs: seen.append(pipe(**inputs)), CALL, within=(0.1, 0.9), most=2)
    assert seen[0].image.tobytes() == plain.tobytes()
    assert again == MagCache.measured(pipe, CALL, within=(0.1, 0.9), most=2)
    assert from_json(json.loads(json.dumps(to_json(again)))) == again
    with pipe.stream(**CALL, cache=MagCache(again.ratios, 0.5)) as stream:
        taken = [event.reused for event in stream]
    assert any(taken)
    assert not taken[0]


def test_several_calls_and_several_pictures_are_averaged(pipe: Any) -> None:
    calls = [CALL, {**CALL, "prompt": "a blue car", "seed": 2}]
    alone = [measured_ratios(pipe, (call,)) for call in calls]
    both = measured_ratios(pipe, tuple(calls))
    assert both == pytest.approx([sum(pair) / 2 for pair in zip(*alone, strict=True)], abs=2e-5)
    assert alone[0] != alone[1]
    twice = measured_ratios(pipe, ({**CALL, "prompt": ["a red apple", "a red apple"], "seed": 7, "num_images": 1},))
    assert twice == pytest.approx(alone[0], abs=1e-3)


def test_a_unet_is_measured_by_the_maps_that_its_inner_layers_give(tmp_path: Path) -> None:
    reference_pipeline(diffusers.StableDiffusionPipeline).save_pretrained(tmp_path)
    sd = DiffusionPipeline.from_pretrained(tmp_path, device="cpu")
    maps: list[Tensor] = []
    init = BlockPass.__init__

    def watched(self: Any, network: str, *, rest: Any, **more: Any) -> None:
        init(self, network, rest=lambda state: maps.append(rest(state)) or maps[-1], **more)

    with patch.object(BlockPass, "__init__", watched):
        cache = MagCache.measured(sd, {"prompt": "a red cat", "seed": 3, "num_inference_steps": 4})
    norms = [x[:1].norm(dim=1) for x in maps]
    assert cache.ratios == pytest.approx([1.0, *(float((b / a).mean()) for a, b in pairwise(norms))], abs=1e-4)


@pytest.mark.parametrize(
    ("calls", "fields", "message"),
    [
        ((), {}, "needs the inputs of a call at least"),
        (({**CALL, "cache": MagCache((1.0,))},), {}, "leave cache out"),
        (({**CALL, "steps": 1},), {}, "needs 2 steps or more"),
        (({**CALL, "steps": 2}, {**CALL, "steps": 3}), {}, r"must have as many steps, got \[2, 3\]"),
        ((CALL,), {"threshold": -1.0}, "threshold must be 0 or more"),
        ((CALL,), {"treshold": 0.1}, "cache MagCache has no 'treshold'; did you mean 'threshold'"),
        ((CALL,), {"ratios": (1.0,)}, "cache MagCache has no 'ratios'"),
    ],
)
def test_what_is_refused(pipe: Any, calls: Any, fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MagCache.measured(pipe, *calls, **fields)


def test_a_mistake_in_a_field_is_told_before_anything_is_drawn(pipe: Any) -> None:
    with (
        patch.object(MiniTransformer2DModel, "forward", side_effect=AssertionError("it draws")),
        pytest.raises(InputError, match="threshold"),
    ):
        MagCache.measured(pipe, CALL, threshold=-1.0)


def test_a_call_without_a_loop_has_no_ratios() -> None:
    with pytest.raises(InputError, match="a call with one loop, got 0"):
        MagCache.measured(lambda **inputs: None, CALL)
