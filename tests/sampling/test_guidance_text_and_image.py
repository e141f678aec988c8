"""Guidance by text and picture."""

import pytest
import torch

from calotype.errors import InputError
from calotype.sampling import Guidance, Step
from calotype.sampling.guidance.text_and_image import NEITHER, NO_TEXT, TextAndImage

STEP = Step(0, 4, 1.0, 999.0, 0.5)
TWINS = frozenset({"prompt"})


def test_it_is_a_policy() -> None:
    assert isinstance(TextAndImage(7.5, 1.5), Guidance)


def test_three_predictions_are_combined_by_equation_3() -> None:
    policy = TextAndImage(7.5, 1.5)
    full, no_text, neither = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    found = policy.combine({"positive": full, NO_TEXT: no_text, NEITHER: neither}, STEP)
    assert torch.allclose(found, neither + 1.5 * (no_text - neither) + 7.5 * (full - no_text), atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "image_scale", "names"),
    [
        (7.5, 1.5, ("positive", NO_TEXT, NEITHER)),
        (7.5, 1.0, ("positive", NO_TEXT)),
        (1.5, 1.5, ("positive", NEITHER)),
        (1.0, 1.0, ("positive",)),
    ],
)
def test_branches_of_no_weight_are_not_predicted(scale: float, image_scale: float, names: tuple[str, ...]) -> None:
    policy = TextAndImage(scale, image_scale)
    assert tuple(b.name for b in policy.branches(TWINS)) == policy.active(STEP) == names
    ones = {name: torch.ones(1, 1, 1, 1) for name in names}
    assert policy.combine(ones, STEP).item() == pytest.approx(1.0)  # weights add up to 1


def test_branches_without_the_text_take_the_negatives() -> None:
    negated = {b.name: b.negated for b in TextAndImage(7.5, 1.5).branches(TWINS)}
    assert negated == {"positive": frozenset(), NO_TEXT: TWINS, NEITHER: TWINS}


@pytest.mark.parametrize("values", [(float("nan"), 1.5), (7.5, float("inf"))])
def test_values_that_are_no_numbers_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="guidance scale must be a finite number"):
        TextAndImage(*values)
