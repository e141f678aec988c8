"""The loop's predictor on batches whose items are at levels of their own."""

from typing import Any

import pytest
import torch

from calotype.sampling.levels import Level
from calotype.sampling.step import MixedLevels, MixedStep
from calotype.training.predictor import Predictor
from calotype.training.wires import trained_wires
from training.small import OneByOne, SmallPipeline, small

LEVELS = [Level(1 - s, s, 1000 * s) for s in (0.2, 0.7, 0.7)]


def predictor(cls: Any) -> Predictor:
    return Predictor(trained_wires(cls.graph, ["net"]).loop, small(cls).components)


def test_a_mixed_step_has_a_level_for_each_item_and_none_in_common() -> None:
    step = MixedStep(torch.tensor([0.2, 0.7]), torch.tensor([200.0, 700.0]))
    assert step.each_sigma.dtype == step.each_timestep.dtype == torch.float32
    assert step.each_timestep.tolist() == [200.0, 700.0]
    for name in ("sigma", "timestep", "index", "count", "sigma_next", "progress"):
        with pytest.raises(MixedLevels, match=f"no {name} in common"):
            getattr(step, name)


def test_one_by_one_and_together_are_the_same_numbers() -> None:
    together, one_by_one = predictor(SmallPipeline), predictor(OneByOne)
    x, text = torch.randn(3, 3, 8, 8), torch.randn(3, 2, 4)
    torch.testing.assert_close(together(x, LEVELS, {"embeds": text}), one_by_one(x, LEVELS, {"embeds": text}))
    assert (together.together, one_by_one.together) == (True, False)


def test_finding_out_leaves_no_trace_in_the_random_numbers() -> None:
    """A predictor that drops out before it asks for its level: the first call is as any later one."""
    one_by_one = predictor(OneByOne)
    one_by_one.components["net"].train()
    x, text = torch.randn(3, 3, 8, 8), torch.randn(3, 2, 4)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(one_by_one(x, LEVELS, {"embeds": text}))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_items_at_one_level_are_told_it() -> None:
    one_by_one = predictor(OneByOne)
    x, text = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 4)
    one_by_one(x, LEVELS[1:], {"embeds": text})
    assert one_by_one.together is None
