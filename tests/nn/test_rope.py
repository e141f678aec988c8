"""Rotary positions: angles by their definition, and turns that keep lengths and depend on distances alone."""

import pytest
import torch

from calotype.nn.rope import rope_table, rotated, turns_of


def test_angles_are_positions_times_falling_frequencies():
    positions = torch.tensor([[0, 0], [2, -3], [5, 7]])
    table = rope_table(positions, (4, 2), theta=100.0)
    angles = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.2, -3.0], [5.0, 0.5, 7.0]])
    torch.testing.assert_close(table, torch.stack((angles.cos(), angles.sin()), dim=-1))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_and_real_turns_are_one(grad, dtype):
    table = rope_table(torch.randint(-9, 9, (5, 3)), (2, 4, 2))
    x = torch.randn(2, 5, 3, 8).to(dtype)
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unsqueeze(1).unbind(-1)
    expected = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)
    with torch.set_grad_enabled(grad):
        for turns in (turns_of(table), table.unsqueeze(1)):
            torch.testing.assert_close(rotated(x.clone(), turns), expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_products_depend_on_the_distance_alone():
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(at, other):
        turned = [
            rotated(x.clone(), turns_of(rope_table(torch.tensor([[place]]), (8,))))
            for x, place in ((query, at), (key, other))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(3, 5), product(10, 12), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(product(3, 5), product(3, 6))
