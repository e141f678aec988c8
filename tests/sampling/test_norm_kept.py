"""Guidance that keeps the length of every token."""

import pytest
import torch

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE
from calotype.nn.patches import patched
from calotype.sampling import ClassifierFree, NormKept, Step
from calotype.sampling.guidance.policy import NEGATIVE

STEP = Step(0, 4, 1.0, 1000.0, 0.8)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 3, 2, 4, 6)], ids=["pictures", "layers"])
def test_every_token_keeps_its_length_and_the_direction_is_the_guided_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    found = {POSITIVE.name: torch.randn(shape), NEGATIVE: torch.randn(shape)}
    guided = ClassifierFree(4.0).combine(found, STEP)
    kept = NormKept(ClassifierFree(4.0)).combine(found, STEP)
    positive, before, after = (patched(x).tokens for x in (found[POSITIVE.name], guided, kept))
    assert torch.allclose(after.norm(dim=-1), positive.norm(dim=-1))
    assert torch.allclose(torch.cosine_similarity(after, before, dim=-1), torch.ones(after.shape[:2]))


def test_what_is_not_guided_stays_and_nothing_is_divided_by_zero() -> None:
    ones = torch.ones(1, 2, 4, 4)
    assert torch.equal(NormKept(ClassifierFree(1.0)).combine({POSITIVE.name: ones}, STEP), ones)
    nothing = {POSITIVE.name: ones, NEGATIVE: ones * 2}  # 2 + 2 * (1 - 2) is 0
    assert torch.equal(NormKept(ClassifierFree(2.0)).combine(nothing, STEP), torch.zeros_like(ones))


def test_a_patch_is_a_whole_number() -> None:
    with pytest.raises(InputError, match="patch must be a whole number from 1, got 0"):
        NormKept(ClassifierFree(2.0), patch=0)
