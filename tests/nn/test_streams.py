"""What conditions make of the tokens: who sees whom, and what is refused."""

import pytest
import torch

from calotype.errors import InputError
from calotype.nn.streams import (
    Condition,
    Layout,
    Patches,
    Region,
    Words,
    block_samples,
    inside_of,
    references,
    regions,
    visible,
)


def test_regions_see_themselves_and_their_area():
    area = torch.zeros(1, 4, 4)
    area[:, 0, 3] = 0.5  # one number of the upper right token's four
    condition = regions(Region(Words(torch.zeros(1, 2, 3)), area))
    layout = Layout((2, 1), ((1, 2, 2),))
    sees = visible(layout, [condition], [None, None], 1, torch.device("cpu"))[0, 0]
    expected = torch.tensor(
        [  # region   prompt  picture
            [1, 1, 0, 0, 1, 0, 0],
            [1, 1, 0, 0, 1, 0, 0],
            [0, 0, 1, 1, 1, 1, 1],
            [0, 0, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1, 1, 1],
            [0, 0, 1, 1, 1, 1, 1],
            [0, 0, 1, 1, 1, 1, 1],
        ]
    ).bool()
    assert torch.equal(sees, expected)


def test_padding_of_any_text_is_seen_by_none():
    area = torch.ones(1, 2, 2)
    words = Words(torch.zeros(1, 2, 3), torch.tensor([[1, 0]]))
    layout = Layout((2, 1), ((1, 2, 2),))
    sees = visible(layout, [regions(Region(words, area))], [words.mask, None], 2, torch.device("cpu"))
    assert sees.shape == (2, 1, 7, 7)
    assert not sees[..., 1].any()
    assert sees[:, 0, 0, 0].all()
    assert visible(layout, [references()], [None, None], 2, torch.device("cpu")) is None


def test_two_conditions_with_texts_know_their_own():
    layout = Layout((1, 1, 1), ((1, 1, 2),))
    left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    both = [regions(Region(Words(torch.zeros(1, 1, 3)), area)) for area in (left, right)]
    sees = visible(layout, both, [None] * 3, 1, torch.device("cpu"))[0, 0]
    assert sees[3:, :3].tolist() == [[True, False, True], [False, True, True]]


def test_an_area_may_have_fewer_numbers_than_a_picture_has_tokens():
    """As where a larger picture, or one of another shape, lies beside the drawn one."""
    area = torch.tensor([[[1, 0, 0], [0, 0, 1]]])
    wide = inside_of(area, (1, 4, 2)).view(4, 2)
    assert wide.tolist() == [[True, False], [True, False], [False, True], [False, True]]
    halves = inside_of(area[:, :1, :2], (2, 1, 4)).view(2, 4)
    assert halves.tolist() == [[True, True, False, False]] * 2


def test_nothing_is_a_condition_too():
    assert regions() == Condition()
    assert references() == Condition()


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="a grid of 1x2x3 has 6 tokens, got 5"):
        Patches(torch.zeros(1, 5, 4), (1, 2, 3))
    with pytest.raises(InputError, match="no samples"):
        block_samples([], 4)
