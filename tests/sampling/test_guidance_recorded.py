"""Guidance policies as JSON."""

import json
from dataclasses import dataclass

import pytest

from calotype.errors import InputError
from calotype.sampling import (
    APG,
    AutoGuidance,
    CFGZeroStar,
    ClassifierFree,
    NoGuidance,
    NormKept,
    PerturbedAttention,
    Rescaled,
    SkipLayers,
    Within,
)
from calotype.sampling.guidance.recorded import METHODS, from_json, to_json

EACH = [
    APG(5.0, norm_threshold=None),
    AutoGuidance(2.0),
    CFGZeroStar(4.0, 2),
    ClassifierFree(7.5, 0.3, (0.1, 0.9)),
    NoGuidance(),
    NormKept(ClassifierFree(4.0)),
    PerturbedAttention(3.0),
    Rescaled(APG(5.0), 0.4),
    SkipLayers(2.8, (2, 3), ClassifierFree(3.0), (0.01, 0.2)),
    Within(Rescaled(CFGZeroStar(3.0)), sigmas=(0.1, 0.9)),
]


@pytest.mark.parametrize("policy", EACH, ids=repr)
def test_a_policy_survives_json(policy):
    assert from_json(json.loads(json.dumps(to_json(policy)))) == policy


def test_every_method_is_one_of_them():
    assert {type(p).__name__ for p in EACH} == set(METHODS)


def test_what_has_a_default_may_be_left_out():
    assert from_json({"method": "APG", "scale": 5}) == APG(5.0)
    assert from_json({"method": "NoGuidance"}) == NoGuidance()


def test_a_policy_of_ones_own_is_recorded_and_not_read():
    @dataclass(frozen=True)
    class Mine:
        weight: float = 2.0

    record = to_json(Mine())
    assert record == {"method": "Mine", "weight": 2.0}
    with pytest.raises(InputError, match="guidance has no method 'Mine'"):
        from_json(record)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"method": "AGP", "scale": 5.0},
            r"guidance has no method 'AGP'.*did you mean 'APG'.* The methods are APG, Auto",
        ),
        ({"scale": 5.0}, "guidance has no method None"),
        ({"method": "APG"}, "guidance APG needs scale"),
        ({"method": "APG", "scal": 5.0}, r"guidance APG has no 'scal'.*did you mean 'scale'"),
        ({"method": "APG", "scale": "high"}, "guidance scale must be a finite number, got 'high'"),
        ({"method": "Rescaled", "policy": 3}, "Rescaled: policy must be a guidance policy"),
        ({"method": "Rescaled", "policy": {"method": "Nothing"}}, "guidance has no method 'Nothing'"),
        ({"method": "Within", "policy": {"method": "NoGuidance"}, "interval": [1]}, "guidance interval must be two"),
    ],
)
def test_what_is_no_policy_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        from_json(value)
