"""Each kind of change, against its formula written out."""

import pytest
import torch

from adapters.small import random
from calotype.adapters.change import Hadamard, Kronecker, LowRank, Whole


def kernel_product(core, first, second):
    """sum over i, j of core[i, j] * first[i, out] * second[j, in], for every place of the kernel."""
    out = torch.zeros(first.shape[1], second.shape[1], *core.shape[2:])
    for i in range(core.shape[0]):
        for j in range(core.shape[1]):
            out += torch.einsum("o,n,hw->onhw", first[i], second[j], core[i, j])
    return out


def test_low_rank():
    down, up = random(2, 5, seed=1), random(3, 2, seed=2)
    change = LowRank({"down": down, "up": up}, scale=0.5)
    assert change.rank == 2 and change.shape == (3, 5) and change.nbytes == 4 * (10 + 6)
    expected = 0.7 * 0.5 * (torch.outer(up[:, 0], down[0]) + torch.outer(up[:, 1], down[1]))
    torch.testing.assert_close(change.dense(torch.zeros(3, 5), 0.7), expected)


def test_low_rank_with_the_kernel_in_the_first_factor_or_in_the_middle():
    down, up = random(2, 5, 3, 3, seed=1), random(4, 2, 1, 1, seed=2)
    first = LowRank({"down": down, "up": up})
    assert first.shape == (4, 5, 3, 3)
    expected = sum(torch.einsum("o,nhw->onhw", up[:, k, 0, 0], down[k]) for k in range(2))
    torch.testing.assert_close(first.product(), expected)
    narrow, mid = random(2, 5, 1, 1, seed=3), random(2, 2, 3, 3, seed=4)
    change = LowRank({"down": narrow, "up": up, "mid": mid})
    assert change.shape == (4, 5, 3, 3)
    torch.testing.assert_close(change.product(), kernel_product(mid, up.flatten(1).t(), narrow.flatten(1)))


def test_whole():
    change = Whole({"diff": random(4, 6, seed=1).half()})
    assert change.rank == 0 and change.shape == (4, 6) and change.product().dtype == torch.float32
    torch.testing.assert_close(
        change.dense(torch.zeros(4, 6, 1, 1), 0.5)[..., 0, 0], 0.5 * change.parts["diff"].float()
    )


def test_hadamard():
    a1, b1, a2, b2 = random(4, 2, seed=1), random(2, 6, seed=2), random(4, 2, seed=3), random(2, 6, seed=4)
    change = Hadamard({"w1_a": a1, "w1_b": b1, "w2_a": a2, "w2_b": b2}, scale=2.0)
    assert change.rank == 2 and change.shape == (4, 6)
    torch.testing.assert_close(change.dense(torch.zeros(4, 6), 1.0), 2 * (a1 @ b1) * (a2 @ b2))


def test_hadamard_with_kernels():
    a1, b1, a2, b2 = random(2, 4, seed=1), random(2, 6, seed=2), random(2, 4, seed=3), random(2, 6, seed=4)
    t1, t2 = random(2, 2, 3, 3, seed=5), random(2, 2, 3, 3, seed=6)
    change = Hadamard({"w1_a": a1, "w1_b": b1, "w2_a": a2, "w2_b": b2, "t1": t1, "t2": t2})
    assert change.shape == (4, 6, 3, 3)
    torch.testing.assert_close(change.product(), kernel_product(t1, a1, b1) * kernel_product(t2, a2, b2))


def blocks(first, second):
    """The Kronecker product as its definition has it: blocks of the second, times one number of the first each."""
    rows = [torch.cat([number * second for number in row], dim=1) for row in first]
    return torch.cat(rows, dim=0)


@pytest.mark.parametrize("split", [(), ("w1",), ("w2",), ("w1", "w2")])
def test_kronecker(split):
    parts = {}
    for seed, (name, shape) in enumerate({"w1": (2, 3), "w2": (4, 5)}.items()):
        if name in split:
            parts |= {f"{name}_a": random(shape[0], 2, seed=seed), f"{name}_b": random(2, shape[1], seed=9 + seed)}
        else:
            parts[name] = random(*shape, seed=seed)
    first, second = (parts.get(n, parts[f"{n}_a"] @ parts[f"{n}_b"] if n in split else None) for n in ("w1", "w2"))
    change = Kronecker(parts)
    assert change.shape == (8, 15) and change.rank == (2 if split else 0)
    torch.testing.assert_close(change.product(), blocks(first, second))


def test_kronecker_of_kernels():
    w1, w2 = random(2, 3, seed=1), random(4, 5, 3, 3, seed=2)
    change = Kronecker({"w1": w1, "w2": w2})
    assert change.shape == (8, 15, 3, 3)
    torch.testing.assert_close(change.product(), blocks(w1, w2))
    core, a, b = random(2, 2, 3, 3, seed=3), random(2, 4, seed=4), random(2, 5, seed=5)
    change = Kronecker({"w1": w1, "w2_a": a, "w2_b": b, "t2": core})
    torch.testing.assert_close(change.product(), blocks(w1, kernel_product(core, a, b)))


@pytest.mark.parametrize("axis", [0, 1])
def test_magnitudes_are_the_lengths_of_the_changed_rows_or_columns(axis):
    base, down, up = random(4, 6, seed=1), random(2, 6, seed=2), random(4, 2, seed=3)
    length = random(base.shape[axis], seed=4).abs() + 0.5
    change = LowRank({"down": down, "up": up}, magnitude=length.unsqueeze(1 - axis))
    changed = base + change.dense(base, 0.5)
    torch.testing.assert_close(changed.norm(dim=1 - axis), length)
    direction = base + 0.5 * up @ down
    cosine = torch.nn.functional.cosine_similarity(changed, direction, dim=1 - axis)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_row_of_zeros_stays_one():
    base = random(4, 3, seed=1)
    base[0] = 0.0
    change = LowRank({"down": random(2, 3, seed=2), "up": torch.cat([torch.zeros(1, 2), random(3, 2, seed=3)])}, 1.0,
                     torch.ones(4, 1))  # fmt: skip
    changed = base + change.dense(base, 1.0)
    torch.testing.assert_close(changed.norm(dim=1), torch.tensor([0.0, 1.0, 1.0, 1.0]))
