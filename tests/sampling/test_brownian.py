"""The Brownian path: its law, and that reading it changes nothing."""

import itertools

import pytest
import torch

from calotype.sampling.brownian import BrownianPath


def path(seed=0, shape=(1, 1, 100, 100), end=14.0):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return BrownianPath.drawn(noise, end, 1e-4)


@pytest.mark.parametrize(("start", "end"), [(0.0, 14.0), (14.0, 6.0), (1.0, 0.9), (0.031, 0.029), (5.0, 0.0001)])
def test_increments_are_normal_with_the_variance_of_their_length(start, end):
    walk = path()
    increment = walk.at(end) - walk.at(start)
    assert float(increment.mean()) == pytest.approx(0.0, abs=0.04 * abs(start - end) ** 0.5)
    assert float(increment.var()) == pytest.approx(abs(start - end), rel=0.05)


def test_increments_are_independent():
    walk = path()
    times = (12.0, 7.0, 6.9, 0.5, 0.4)
    parts = [walk.at(a) - walk.at(b) for a, b in itertools.pairwise(times)]
    together = torch.corrcoef(torch.stack([part.flatten() for part in parts]))
    torch.testing.assert_close(together, torch.eye(4, dtype=torch.float64), rtol=0, atol=0.04)


def test_reading_changes_nothing_and_items_are_apart():
    walk = path(shape=(2, 1, 4, 4))
    before = walk.at(3.0)
    walk.at(5.0)
    assert torch.equal(walk.at(3.0), before)
    assert not torch.equal(before[0], before[1])
    alone = BrownianPath.drawn(walk.last[:1] / 14.0**0.5, 14.0, 1e-4)
    torch.testing.assert_close(alone.at(3.0), before[:1])


def test_the_path_ends_where_it_must():
    walk = path(shape=(1, 1, 2, 2))
    assert torch.equal(walk.at(14.0), walk.last)
    assert torch.equal(walk.at(99.0), walk.last)
    assert torch.equal(walk.at(0.0), torch.zeros_like(walk.last))
