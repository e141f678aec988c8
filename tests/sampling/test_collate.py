"""Items to batches: the pad rule, composite values, and what makes no batch."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Pad
from calotype.sampling.collate import collate, equal, is_composite, leaves_of, map_leaves, split_items


@dataclass(frozen=True)
class Sounded:
    video: Tensor
    audio: Tensor


@dataclass(frozen=True)
class Nested:
    clip: Sounded
    mask: Tensor


@dataclass(frozen=True)
class Told:
    video: Tensor
    rate: int


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def test_items_are_joined_along_the_first_dimension():
    batch = collate("x", [ones(1, 3), 2 * ones(1, 3)], Tensor)
    assert torch.equal(batch, torch.tensor([[1.0, 1, 1], [2, 2, 2]]))


def test_one_value_for_all_is_expanded_without_a_copy():
    value = ones(1, 3)
    batch = collate("x", [value] * 4, Tensor)
    assert batch.shape == (4, 3) and batch.data_ptr() == value.data_ptr()
    assert collate("x", [ones(2, 3)] * 1, Tensor).shape == (2, 3)
    pair = ones(2, 3)
    assert collate("x", [pair, pair], Tensor).shape == (4, 3)


def test_the_pad_rule_fills_up_at_the_end():
    hint = Annotated[Tensor, Pad(1, value=-1.0)]
    batch = collate("x", [ones(1, 1, 2), ones(1, 3, 2)], hint)
    assert batch.shape == (2, 3, 2)
    assert batch[0, :, 0].tolist() == [1, -1, -1] and batch[1].min() == 1
    last = collate("x", [ones(1, 2, 1), ones(1, 2, 3)], Annotated[Tensor, Pad(-1)] | None)
    assert last[0, 0].tolist() == [1, 0, 0]


def test_masks_are_padded_with_false():
    mask = collate("x", [ones(1, 1).bool(), ones(1, 2).bool()], Annotated[Tensor, Pad(1)])
    assert mask.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ([ones(1, 1, 2), ones(1, 3, 2)], Tensor),
        ([ones(1, 1, 2), ones(1, 1, 3)], Annotated[Tensor, Pad(1)]),
        ([ones(1, 1, 2), ones(1, 2)], Annotated[Tensor, Pad(1)]),
    ],
)
def test_sizes_without_a_rule_make_no_batch(values, hint):
    with pytest.raises(
        InputError, match=r"x has the shapes \(1, 1, 2\), .* for different items, which make no batch; use"
    ):
        collate("x", values, hint)


def test_values_that_are_no_arrays_must_be_equal():
    assert collate("scale", [2.0, 2.0], float) == 2.0
    with pytest.raises(
        InputError, match=r"scale is 2\.0, 3\.0 for different items, and a float cannot be batched; call"
    ):
        collate("scale", [2.0, 3.0], float)
    with pytest.raises(InputError, match="scale is 1, True for different items"):
        collate("scale", [1, True], Any)


def test_scalar_arrays_must_be_equal_too():
    assert collate("x", [torch.tensor(2.0), torch.tensor(2.0)], Tensor) == 2
    scalar = torch.tensor(2.0)
    assert collate("x", [scalar, scalar], Tensor) is scalar
    with pytest.raises(InputError, match="a Tensor cannot be batched"):
        collate("x", [torch.tensor(2.0), torch.tensor(3.0)], Tensor)


def test_none_for_some_items_only():
    assert collate("x", [None, None], Tensor | None) is None
    with pytest.raises(
        InputError, match="x is None for some items and not for others; call the pipeline once for each kind"
    ):
        collate("x", [None, ones(1)], Tensor | None)


def test_composite_values_are_joined_part_by_part():
    values = [Sounded(i * ones(1, 2), i * ones(1, 3)) for i in (1, 2)]
    batch = collate("x", values, Sounded)
    assert (batch.video.shape, batch.audio.shape) == ((2, 2), (2, 3)) and batch.audio[1, 0] == 2
    assert collate("x", [values[0]] * 3, Sounded).audio.shape == (3, 3)
    assert [part.video.tolist() for part in split_items(batch, 2)] == [[[1, 1]], [[2, 2]]]


def test_a_composite_with_other_parts_cannot_be_batched():
    with pytest.raises(InputError, match="a Told cannot be batched"):
        collate("x", [Told(ones(1, 2), 3), Told(ones(1, 2), 3)], Told)
    assert not is_composite(Told(ones(1), 3)) and not is_composite(Sounded)


def test_leaves():
    value = Nested(Sounded(ones(1), 2 * ones(1)), 3 * ones(1))
    assert [leaf.item() for leaf in leaves_of(value)] == [1, 2, 3]
    doubled = map_leaves(lambda a, b: a + b, value, value)
    assert isinstance(doubled, Nested) and [leaf.item() for leaf in leaves_of(doubled)] == [2, 4, 6]
    assert map_leaves(lambda t: t + 1, ones(1)).item() == 2


def test_equality_where_a_type_cannot_tell():
    assert equal(ones(2), ones(2)) and not equal(ones(2), ones(3)) and not equal(ones(1), 1.0)
    assert equal("a", "a") and not equal(1, 1.0)
    assert not equal(Sounded(ones(2), ones(2)), Sounded(ones(2), ones(2)))
