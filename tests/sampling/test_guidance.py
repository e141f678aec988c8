"""Guidance policies alone."""

import math

import pytest
import torch

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling import ClassifierFree, NoGuidance, Step

TWINS = frozenset({"prompt"})


def step(index=0, count=10):
    return Step(index, count, 1.0, 0.0, 0.5)


def predictions():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 3, 4, 4, generator=generator) for name in ("positive", "negative")}


def test_no_guidance_is_the_positive_branch():
    found = predictions()
    assert NoGuidance().branches(TWINS) == (POSITIVE,)
    assert NoGuidance().active(step()) == ("positive",)
    assert NoGuidance().combine(found, step()) is found["positive"]


def test_classifier_free_is_the_formula():
    found = predictions()
    policy = ClassifierFree(7.5)
    assert policy.branches(TWINS) == (POSITIVE, Branch("negative", TWINS))
    assert policy.active(step()) == ("positive", "negative")
    wanted = found["negative"] + 7.5 * (found["positive"] - found["negative"])
    torch.testing.assert_close(policy.combine(found, step()), wanted)


def test_scale_one_is_no_guidance():
    found = predictions()
    policy = ClassifierFree(1.0, rescale=0.5)
    assert policy.branches(TWINS) == (POSITIVE,)
    assert policy.active(step()) == ("positive",)
    assert policy.combine({"positive": found["positive"]}, step()) is found["positive"]


def test_scale_zero_is_the_negative_branch():
    found = predictions()
    torch.testing.assert_close(ClassifierFree(0.0).combine(found, step()), found["negative"])


def test_rescale_equals_the_reference():
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    found = predictions()
    guided = ClassifierFree(5.0).combine(found, step())
    for amount in (0.3, 1.0):
        wanted = pipeline.rescale_noise_cfg(guided, found["positive"], guidance_rescale=amount)
        torch.testing.assert_close(ClassifierFree(5.0, rescale=amount).combine(found, step()), wanted)


def test_full_rescale_gives_every_item_the_spread_of_its_positive_branch():
    found = predictions()
    spread = ClassifierFree(9.0, rescale=1.0).combine(found, step()).flatten(1).std(dim=1)
    torch.testing.assert_close(spread, found["positive"].flatten(1).std(dim=1))


def test_rescale_of_a_constant_prediction_is_finite():
    constant = {"positive": torch.ones(2, 3), "negative": torch.zeros(2, 3)}
    assert ClassifierFree(4.0, rescale=1.0).combine(constant, step()).isfinite().all()


def test_an_item_is_guided_alike_in_every_batch():
    found = predictions()
    alone = {name: value[:1] for name, value in found.items()}
    policy = ClassifierFree(5.0, rescale=0.7)
    torch.testing.assert_close(policy.combine(found, step())[:1], policy.combine(alone, step()))


def test_the_interval_has_its_first_step_and_not_its_last():
    policy = ClassifierFree(5.0, interval=(0.2, 0.5))
    guided = [i for i in range(10) if len(policy.active(step(i))) == 2]
    assert guided == [2, 3, 4]
    positive = predictions()["positive"]
    assert policy.combine({"positive": positive}, step(7)) is positive
    assert all(len(ClassifierFree(5.0).active(step(i))) == 2 for i in range(10))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": math.nan}, "guidance scale must be a finite number, got nan"),
        ({"scale": math.inf}, "guidance scale must be a finite number, got inf"),
        ({"scale": 2.0, "rescale": 1.5}, "guidance rescale must be between 0 and 1, got 1.5"),
        ({"scale": 2.0, "interval": (0.5, 0.5)}, "guidance interval must be two increasing numbers"),
        ({"scale": 2.0, "interval": (-0.1, 0.5)}, "guidance interval must be two increasing numbers"),
        ({"scale": 2.0, "interval": (0.0, 1.1)}, "guidance interval must be two increasing numbers"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        ClassifierFree(**values)
