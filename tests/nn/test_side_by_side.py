"""Layers whose weights lie side by side: the same numbers from one product, and from several where they lie apart."""

import copy

import pytest
import torch
from torch import nn

from calotype.nn import side_by_side
from calotype.nn.side_by_side import lay_apart, lay_side_by_side, products


def layers(bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, width, bias=bias).requires_grad_(False) for width in (4, 8, 4)]


def tensors(several: list[nn.Linear]) -> list[torch.Tensor]:
    return [tensor for layer in several for tensor in layer.state_dict().values()]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the weight of each joint product has."""
    seen: list[int] = []
    real = side_by_side.linear

    def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(len(weight))
        return real(rows, weight, bias)

    monkeypatch.setattr(side_by_side, "linear", linear)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_one_product_gives_what_all_layers_give(bias: bool, counted: list[int]) -> None:
    several, x = layers(bias), torch.randn(5, 6)
    wanted, before = [layer(x) for layer in several], [t.clone() for t in tensors(several)]
    assert products(x, several) and not counted
    assert lay_side_by_side(several)
    for one, other in zip(products(x, several), wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert counted == [16]
    assert all(torch.equal(one, other) for one, other in zip(before, tensors(several), strict=True))
    weights = {layer.weight.untyped_storage().data_ptr() for layer in several}
    assert len(weights) == 1 and several[0].weight.untyped_storage().nbytes() == 16 * 6 * 4  # and no second copy
    lay_apart(several)
    assert len(products(x, several)) == 3 and counted == [16]


@torch.no_grad()
def test_each_layer_computes_for_itself_where_something_is_in_the_way(counted: list[int]) -> None:
    several, x = layers(), torch.randn(5, 6)
    assert lay_side_by_side(several)
    handle = several[1].register_forward_hook(lambda layer, args, out: out + 1)
    torch.testing.assert_close(products(x, several)[1], several[1](x))
    handle.remove()
    old = several[2].weight
    several[2].weight = nn.Parameter(torch.ones(4, 6), requires_grad=False)
    torch.testing.assert_close(products(x, several)[2], several[2](x))
    several[2].weight = old
    other = copy.deepcopy(several)
    torch.testing.assert_close(products(x, other)[0], several[0](x))
    with torch.enable_grad():
        rows = x.clone().requires_grad_(True)
        sum(out.sum() for out in products(rows, several)).backward()
    assert rows.grad is not None
    assert counted == []
    products(x, several)
    assert counted == [16]


def test_what_cannot_lie_in_one_piece_stays() -> None:
    mixed = layers()
    mixed[1].to(torch.bfloat16)
    before = [layer.weight.data_ptr() for layer in mixed]
    assert not lay_side_by_side(mixed)
    assert [layer.weight.data_ptr() for layer in mixed] == before
    with torch.device("meta"):
        empty = layers()
    assert not lay_side_by_side(empty)
    resting = layers()
    resting[0].weight.data = torch.zeros(()).expand(4, 6)  # which stands for what is in a file
    assert not lay_side_by_side(resting)


def test_a_part_that_cannot_be_joined_leaves_all_where_they_are() -> None:
    several = layers()
    several[1].bias.data = several[1].bias.data.double()
    before = [tensor.data_ptr() for tensor in tensors(several)]
    assert not lay_side_by_side(several)
    assert [tensor.data_ptr() for tensor in tensors(several)] == before


def test_weights_that_lie_so_are_not_moved_again() -> None:
    several = layers()
    assert lay_side_by_side(several)
    before = [tensor.data_ptr() for tensor in tensors(several)]
    assert lay_side_by_side(several)
    assert [tensor.data_ptr() for tensor in tensors(several)] == before


def test_what_rests_in_a_file_takes_no_memory_when_laid_apart() -> None:
    several = layers()
    assert lay_side_by_side(several)
    for layer in several:
        for parameter in layer.parameters():
            parameter.data = torch.zeros(()).expand(parameter.shape)
    lay_apart(several)
    assert all(tensor.untyped_storage().nbytes() == 4 for tensor in tensors(several))
