"""What each precision costs on real weights: the embedded model's transformer, and the pictures that it draws."""

import copy

import numpy as np
import pytest
import torch

from calotype import TextToImagePipeline
from calotype.memory.storage import precision_of, size_of, store

CALLS = [{"prompt": "a red apple", "seed": 3, "steps": 8}, {"prompt": "a blue car", "seed": 4, "steps": 8}]

COSTS = {
    "float8_e4m3fn": (4_389_952, 0.028, 4.0),
    "float8_e5m2": (4_389_952, 0.055, 8.0),
    "int8": (4_389_952, 0.008, 1.5),
    "int4": (3_224_128, 0.105, 15.0),
    "nf4": (3_178_048, 0.097, 15.0),
    "fp4": (3_178_048, 0.13, 15.0),
}
"""The bytes of the network (12,301,888 in float32), the most that its weights err, relative to their size, and the most
that pictures differ, in levels of 255 and as a mean over pixels. Pictures of other seeds differ by 18."""


@pytest.fixture(scope="module")
def pipe():
    return TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)


@pytest.fixture(scope="module")
def pictures(pipe):
    return drawn(pipe)


def drawn(pipe):
    return np.stack([np.asarray(pipe(**call).image, np.float64) for call in CALLS])


@pytest.mark.parametrize("name", COSTS)
def test_what_a_precision_costs(pipe, pictures, name):
    size, error, difference = COSTS[name]
    net = copy.deepcopy(pipe.transformer)
    store(net, {"*": name})
    assert sum(size_of(net)[:2]) == size
    wrong = whole = torch.zeros(())
    for layer in precision_of(net):
        weight = pipe.transformer.get_submodule(layer).weight.detach()
        wrong = wrong + (net.get_submodule(layer).weight - weight).square().sum()
        whole = whole + weight.square().sum()
    assert 0 < (wrong / whole).sqrt() < error
    packed = TextToImagePipeline.from_pretrained("calotype/emoji-64", transformer=net, device="cpu", memo=0)
    assert 0 < np.abs(drawn(packed) - pictures).mean() < difference


def test_the_plan_counts_what_is_kept_packed(pipe):
    packed = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)
    store(packed.transformer, {"*": "nf4"})
    sizes = [one.plan(prompt="a red apple").predicted_peak for one in (pipe, packed)]
    assert None not in sizes
    saved = 12_301_888 - 3_178_048
    assert 0.8 * saved < sizes[0] - sizes[1] <= saved
