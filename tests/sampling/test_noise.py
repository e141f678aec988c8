"""Sources of fresh noise."""

import pytest
import torch

from calotype.errors import InputError
from calotype.sampling.noise import per_item, shared


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_an_item_gets_the_same_noise_in_every_batch():
    together = per_item(generators(5, 6))(torch.zeros(2, 3, 4))
    alone = per_item(generators(6))(torch.zeros(1, 3, 4))
    assert torch.equal(together[1:], alone)


def test_noise_is_like_the_latents():
    drawn = per_item(generators(1))(torch.zeros(1, 2, dtype=torch.float64))
    assert drawn.dtype == torch.float64
    assert drawn.shape == (1, 2)


def test_a_shared_generator_draws_the_batch_at_once():
    [a, b] = generators(3, 3)
    assert torch.equal(shared(a)(torch.zeros(2, 3)), torch.randn(2, 3, generator=b))
    torch.manual_seed(0)
    first = shared(None)(torch.zeros(4))
    torch.manual_seed(0)
    assert torch.equal(first, torch.randn(4))


def test_another_number_of_items_is_refused():
    with pytest.raises(InputError, match="got 2 generators for 3 items"):
        per_item(generators(1, 2))(torch.zeros(3, 1))
