"""Step caches as values: when they take over, what they continue, and their form as JSON."""

import json
from typing import Any

import pytest
import torch

from calotype import FirstBlockCache, MagCache, TaylorCache, TeaCache
from calotype.errors import InputError
from calotype.nn.reuse import BlockPass, in_turn, residual_pass
from calotype.sampling.caching.policy import change
from calotype.sampling.caching.recorded import METHODS, from_json, to_json
from calotype.sampling.caching.session import Caching, Kept
from calotype.sampling.step import Step

ONE = torch.ones(1, 4)


def step(index: int, count: int = 8) -> Step:
    return Step(index, count, 1 - index / count, 1000 * (1 - index / count), 1 - (index + 1) / count)


def judged(policy: Any, signs: list[float]) -> str:
    """At which steps a policy takes over, by one sign for each: `x` where it does."""
    state, found = None, ""
    for index, value in enumerate(signs):
        reuses = False
        if index:
            reuses, after = policy.judge(step(index, len(signs)), value * ONE, state)
        state = after if reuses else policy.renewed(step(index, len(signs)), value * ONE, state)
        found += "x" if reuses else "."
    return found


def test_a_first_block_is_compared_with_that_of_the_last_step_that_computed() -> None:
    # 1.2 is a fifth away from 1, and 1.4 a sixth from 1.2
    assert judged(FirstBlockCache(0.15), [1.0, 1.1, 1.2, 1.3, 1.4]) == ".x.x."
    assert judged(FirstBlockCache(0.25), [1.0, 1.1, 1.2, 1.3, 1.4]) == ".xx.x"
    assert judged(FirstBlockCache(0.0), [1.0, 1.0, 1.0]) == "..."


def test_teacache_sums_the_changes_from_step_to_step() -> None:
    # 0.5 is exact in binary: every step doubles, which is a change of 1
    assert judged(TeaCache(2.5), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]) == ".xx.xx"
    assert judged(TeaCache(0.0), [1.0, 1.0, 1.0]) == "..."
    assert judged(TeaCache(0.0, (-1.0, 0.0)), [1.0, 2.0, 4.0]) == "..."
    # 2 x^2 + 1 makes 3 of a change of 1
    assert judged(TeaCache(7.0, (2.0, 0.0, 1.0)), [1.0, 2.0, 4.0, 8.0]) == ".xx."


def test_magcache_sums_the_distances_of_the_product_from_1() -> None:
    ratios = (1.0, 0.5, 0.5, 1.0, 1.0)
    assert judged(MagCache(ratios, 1.0), [0.0] * 5) == ".x.xx"  # 0.5; 0.5 + 0.75 is too much; then 0 and 0
    assert judged(MagCache(ratios, 1.3), [0.0] * 5) == ".xx.x"
    assert judged(MagCache(ratios, 0.0), [0.0] * 5) == "....."
    # twice as many steps read the same ratios in proportion: the middle of the loop is that of the measured one
    assert MagCache((1.0, 0.9, 0.8))._place(step(4, 9)) == 1
    assert MagCache((1.0, 0.9))._place(step(0, 1)) == 1


def test_a_taylor_cache_computes_at_every_so_many_steps_after_its_warm_up() -> None:
    assert judged(TaylorCache(3, warm_up=0), [0.0] * 7) == ".xx.xx."
    assert judged(TaylorCache(2, warm_up=4), [0.0] * 8) == "....x.x."
    assert judged(TaylorCache(1, warm_up=0), [0.0] * 4) == "...."


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_series_of_a_degree_continues_a_polynomial_of_that_degree(degree: int) -> None:
    def value(index: float) -> torch.Tensor:
        return torch.tensor([sum((index + 1) ** power for power in range(degree + 1))], dtype=torch.float64)

    kept = Kept(0, ((value(0),),))
    for index in (1, 2, 3):
        kept = kept.then(index, (value(index),), degree)
    assert len(kept.derivatives) == degree + 1
    if degree < 2:
        torch.testing.assert_close(kept.at(5)[0], value(5))
    else:  # backward differences are late by half a step: the slope of 1 + x + x^2 at 4 is 9, they find 8
        torch.testing.assert_close(kept.at(5)[0], value(3) + 8 * 2 + 2 * 2**2 / 2)


def test_the_item_that_moved_the_furthest_counts() -> None:
    before = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert change(before + torch.tensor([[0.0, 0.0], [1.0, 0.0]]), before) == 0.25
    assert change(before * 3, before) == 2.0
    assert not change(torch.zeros(1, 2), torch.zeros(1, 2)) < 1.0, "nothing to be relative to: compute"


def layers(seen: list[int]) -> list[Any]:
    def layer(index: int, x: torch.Tensor) -> torch.Tensor:
        seen.append(index)
        return x + (index + 1)

    return [lambda x, index=index: layer(index, x) for index in range(3)]


def test_a_pass_without_a_cache_is_its_layers_in_turn() -> None:
    seen: list[int] = []
    x = torch.zeros(2, 3)
    blocks = residual_pass("Net", layers(seen), x, lambda state: state, lambda: x)
    assert torch.equal(blocks.rest(blocks.first()), in_turn(layers([]), x))
    assert seen == [0, 1, 2]


def passed(caching: Caching, name: str, x: torch.Tensor, seen: list[int]) -> torch.Tensor:
    """What three layers give on one branch, under a cache."""
    (steering,) = caching.steering([name])
    return steering.cache.passed(residual_pass("Net", layers(seen), x, lambda state: state, lambda: x))


@pytest.mark.parametrize(("policy", "first"), [(FirstBlockCache(0.5), [0]), (TaylorCache(4, 0, 0), [])])
def test_what_runs_when_a_step_takes_over(policy: Any, first: list[int]) -> None:
    """The first block alone, or none; and what they gave is added to what enters now."""
    caching = Caching(policy, items=2, predictor="predicted")
    for index, ran in enumerate(([0, 1, 2], first, first)):
        seen: list[int] = []
        caching.begin(step(index), ["positive"])
        x = torch.full((2, 3), float(index))
        assert torch.equal(passed(caching, "positive", x, seen), x + 6)
        assert seen == ran
        assert caching.reused == (index > 0)


def test_all_branches_of_a_step_compute_where_one_of_them_has_nothing_to_take_over() -> None:
    caching, ran = Caching(TaylorCache(9, 0, 0), items=1, predictor="predicted"), []
    for index, names in enumerate((["a"], ["a"], ["a", "b"], ["a", "b"])):
        caching.begin(step(index), names)
        seen: list[int] = []
        for name in names:
            passed(caching, name, torch.zeros(1, 3), seen)
        ran.append(len(seen))
    assert ran == [3, 0, 6, 0]


def test_branches_in_one_batch_are_kept_apart() -> None:
    caching = Caching(TaylorCache(9, 0, 0, of="prediction"), items=1, predictor="predicted")
    together = torch.tensor([[1.0], [2.0]])
    caching.begin(step(0), ["a", "b"])
    assert caching.predicted(("a", "b"), together, lambda: together * 10) is not together
    caching.begin(step(1), ["a", "b"])
    assert torch.equal(caching.predicted(("b",), together[:1], pytest.fail), torch.tensor([[20.0]]))
    assert torch.equal(caching.predicted(("b", "a"), together, pytest.fail), torch.tensor([[20.0], [10.0]]))


def test_teacache_asks_for_what_a_network_has_not() -> None:
    x = torch.zeros(1, 3)
    caching = Caching(TeaCache(), items=1, predictor="predicted")
    caching.begin(step(0), ["positive"])
    blocks = BlockPass("UNet", first=lambda: x, hidden=lambda s: s, rest=lambda s: s)
    with pytest.raises(InputError, match=r"UNet has no input of a first block.*take FirstBlockCache or TaylorCache"):
        caching.steering(["positive"])[0].cache.passed(blocks)


@pytest.mark.parametrize(
    "policy",
    [
        FirstBlockCache(0.2, within=(0.1, 0.9), most=3),
        MagCache((1.0, 0.98), 0.3),
        TaylorCache(3, 2, 1, of="prediction"),
        TeaCache(0.3, (498.0, -283.0, 55.8, -3.8, 0.26)),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_policy_comes_back_from_json(policy: Any) -> None:
    text = json.dumps(to_json(policy))
    assert from_json(json.loads(text)) == policy
    assert type(policy).__name__ in METHODS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FirstBlockCache(-0.1), "FirstBlockCache: threshold must be 0 or more, got -0.1"),
        (lambda: TeaCache(float("nan")), "TeaCache: threshold must be a finite number, got nan"),
        (lambda: TeaCache(0.1, ()), "TeaCache: coefficients must be a tuple of numbers"),
        (lambda: TeaCache(0.1, (1.0, None)), "TeaCache: each of coefficients must be a finite number"),  # type: ignore[arg-type]
        (lambda: MagCache(()), "MagCache: ratios must be a tuple of numbers, one for each step"),
        (lambda: MagCache((1.0, float("inf"))), "MagCache: each of ratios must be a finite number"),
        (lambda: TaylorCache(0), "TaylorCache: every must be a whole number from 1, got 0"),
        (lambda: TaylorCache(2, -1), "TaylorCache: degree must be a whole number from 0, got -1"),
        (lambda: TaylorCache(2, 1, 1.5), "TaylorCache: warm_up must be a whole number from 0, got 1.5"),  # type: ignore[arg-type]
        (lambda: TaylorCache(of="block"), "of must be one of blocks, prediction, got 'block'; did you mean 'blocks'"),  # type: ignore[arg-type]
        (lambda: FirstBlockCache(0.1, within=(0.5, 0.5)), "within must be two increasing numbers"),
        (lambda: FirstBlockCache(0.1, most=0), "FirstBlockCache: most must be a whole number from 1, got 0"),
        (lambda: from_json({"method": "FirstBlock"}), "cache has no method 'FirstBlock'; did you mean"),
        (lambda: from_json({"method": "TeaCache", "treshold": 1}), "has no 'treshold'; did you mean 'threshold'"),
        (lambda: from_json({"method": "MagCache"}), "cache MagCache needs ratios"),
    ],
)  # fmt: skip
def test_what_a_policy_does_not_take(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
