"""AdamW with moments in 8 bits: near to that with 32, in a quarter of the memory, and gone on with exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype.training import AdamW, FullWeights, Trainer
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from calotype.training.eight_bit import BLOCK, AdamW8Bit, _levels, decoded, encoded
from training.small import Small, rows, small


@pytest.mark.parametrize("signed", [True, False])
def test_codes_reach_seven_decades_and_both_ends(signed: bool) -> None:
    levels = _levels(signed)
    assert len(levels) <= 256 and (levels.diff() > 0).all()
    assert levels[-1] == 1.0 and levels[levels.abs().argmin()] == 0.0
    assert (levels[0] == -1.0) if signed else (levels[0] == 0.0)
    assert levels[levels > 0].min() < (2e-6 if signed else 2e-7)


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_the_nearest_of_its_block(signed: bool) -> None:
    values = torch.randn(3, 700, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 700)
    values = values if signed else values.abs()
    name = "exp_avg" if signed else "exp_avg_sq"
    made = encoded(name, values, signed=signed)
    assert made[name].dtype == torch.uint8 and made[f"{name}_scale"].numel() == -(-values.numel() // BLOCK)
    again = decoded(made, name, values)
    scale = made[f"{name}_scale"].repeat_interleave(BLOCK)[: values.numel()].view(values.shape)
    levels = _levels(signed) if signed else _levels(signed)[1:]  # what is not 0 stays so
    nearest = (values[..., None] / scale[..., None] - levels).abs().amin(-1) * scale
    torch.testing.assert_close((again - values).abs(), nearest, rtol=1e-3, atol=1e-6)


def test_a_small_second_moment_is_never_zero() -> None:
    values = torch.tensor([1.0, 1e-12, 0.0])
    made = decoded(encoded("exp_avg_sq", values, signed=False), "exp_avg_sq", values)
    assert made[0] == 1.0 and made[1] > 0.0 and made[2] == 0.0


def learned(optimizer: Any, layer: nn.Module, steps: int = 200) -> float:
    """The loss of a regression after some steps."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(64, 96, generator=draw)
    wanted = x @ torch.randn(96, 64, generator=draw)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def layer() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(96, 64)


def test_it_learns_what_32_bits_do_in_a_quarter_of_the_memory() -> None:
    ours, theirs = layer(), layer()
    eight, full = AdamW8Bit(ours.parameters(), lr=3e-2), torch.optim.AdamW(theirs.parameters(), lr=3e-2)
    start = learned(torch.optim.SGD(layer().parameters(), lr=0.0), layer(), 1)
    losses = learned(eight, ours), learned(full, theirs)
    assert losses[0] < 0.01 * start and losses[0] == pytest.approx(losses[1], rel=0.25, abs=0.01 * start)

    def size(optimizer: Any, parameter: Tensor) -> int:
        return sum(v.numel() * v.element_size() for k, v in optimizer.state[parameter].items() if k != "step")

    assert size(eight, ours.weight) < 0.26 * size(full, theirs.weight)
    assert size(eight, ours.bias) == size(full, theirs.bias)


def test_the_first_step_is_that_of_32_bits() -> None:
    ours, theirs = layer(), layer()
    learned(AdamW8Bit(ours.parameters(), lr=1e-2), ours, 1)
    learned(torch.optim.AdamW(theirs.parameters(), lr=1e-2), theirs, 1)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    """A network of which two layers are large enough for codes."""
    settings = {
        "target": FullWeights(component="net", result="component"), "batch": 2, "checkpoint_every": 1,
        "optimizer": AdamW(rate=1e-2, eight_bit=True),
    }  # fmt: skip
    found = []
    for name, counts in (("whole", (6,)), ("parted", (3, 6))):
        for steps in counts:
            torch.manual_seed(0)
            pipe = small(net=Small(width=24))
            Trainer(pipe, rows(), tmp_path / name, steps=steps, **settings).train(resume=True, progress=False)
        found.append(load_checkpoint(last_checkpoint(tmp_path / name) or tmp_path))
    assert all(torch.equal(found[0].trained[name], value) for name, value in found[1].trained.items())
    states = [one.optimizer["state"] for one in found]
    kinds = {value.dtype for values in states[0].values() for value in values.values()}
    assert torch.uint8 in kinds
    for number, values in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in values.items())
