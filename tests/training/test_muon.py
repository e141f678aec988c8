"""Muon with AdamW against torch's own of both, and as an option of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from calotype.errors import ConfigError
from calotype.training import FullWeights, Muon, Rate, Trainer
from calotype.training.log import read_table
from calotype.training.muon import MuonAdamW, orthogonalize
from training.small import SETTINGS, rows, small


def network() -> nn.Sequential:
    """Matrices of two shapes, wide and tall, and vectors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4))


def moved(model: nn.Module, optimizers: list[Any], steps: int = 5) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        (model(torch.randn(8, 6, generator=draw)) - 1).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


def parted(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    both = list(model.parameters())
    return [p for p in both if p.ndim == 2], [p for p in both if p.ndim != 2]


def exact(matrix: torch.Tensor) -> torch.Tensor:
    """Four steps of the iteration in float64."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(4):
        gram = x @ x.T
        x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def test_it_moves_as_torch_does() -> None:
    """The matrices to a twentieth of a step, from torch's own and from the iteration in float64: it is in bfloat16.
    The rest exactly."""
    ours, theirs, start = network(), network(), network()
    for model in (ours, theirs, start):
        draw = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
    matrices, others = parted(ours)
    MuonAdamW(matrices, others, lr=0.02, weight_decay=0.1, share=0.5, other_decay=0.01).step()
    matrices, others = parted(theirs)
    torch.optim.Muon(
        matrices, lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True, ns_steps=4, adjust_lr_fn="original"
    ).step()
    torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.99), weight_decay=0.01).step()
    found, wanted = ([p.detach() for p in model.parameters()] for model in (ours, theirs))
    for parameter, a, b in zip(start.parameters(), found, wanted, strict=True):
        if parameter.ndim != 2:
            assert torch.equal(a, b)
            continue
        assert parameter.grad is not None
        rows, columns = parameter.shape
        step = exact(parameter.grad) * 0.02 * max(1.0, rows / columns) ** 0.5
        right = parameter.detach() * (1 - 0.02 * 0.1) - step
        assert (a - right).norm() < 0.05 * step.norm()
        assert (a - b).norm() < 0.05 * step.norm()


def test_what_was_learned_goes_on_from_a_state() -> None:
    whole, parts = network(), network()
    wanted = moved(whole, [MuonAdamW(*parted(whole), lr=0.02)], steps=4)
    first = MuonAdamW(*parted(parts), lr=0.02)
    draw = torch.Generator().manual_seed(1)
    for step in range(4):
        if step == 2:
            second = MuonAdamW(*parted(parts), lr=0.02)
            second.load_state_dict(first.state_dict())
            first = second
        (parts(torch.randn(8, 6, generator=draw)) - 1).square().mean().backward()
        first.step()
        first.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(wanted, parts.parameters(), strict=True))


def test_singular_values_come_near_to_one() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(0))))
    assert ((values > 0.5) & (values < 1.5)).all()


def test_a_run_with_it_learns_and_goes_on_exactly(tmp_path: Path) -> None:
    settings = {
        **SETTINGS, "optimizer": Muon(rate=0.05, other_rate=0.01, matrices="to_q"), "steps": 12,
        "rate": Rate(curve="hold", warmup=2), "checkpoint_every": 5,
    }  # fmt: skip
    whole, parts = small(), small()
    Trainer(whole, rows(5), tmp_path / "whole", **settings).train(progress=False)
    Trainer(parts, rows(5), tmp_path / "parts", **{**settings, "steps": 12}).train(progress=False)
    again = small()
    for name in ("checkpoint-00000012", "result"):
        (tmp_path / "parts" / name).rename(tmp_path / name)
    Trainer(again, rows(5), tmp_path / "parts", **settings).train(resume=True, progress=False)
    for other in (parts, again):
        assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), other.net.parameters(), strict=True))
    table = read_table(tmp_path / "whole")
    shares = [float(row["rate"]) / 0.05 for row in table]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 10 / 12, 8 / 12, 6 / 12, 4 / 12, 2 / 12])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing", "no layer of 'the trained parameters' matches 'nothing'"),
        ("bias", "has two dimensions"),
        ("(", "is not a regular expression"),
    ],
)
def test_matrices_that_are_not_there_are_refused(tmp_path: Path, pattern: str, message: str) -> None:
    target = FullWeights(component="net", result="component")
    trainer = Trainer(small(), rows(2), tmp_path / "run", target=target, steps=1, optimizer=Muon(matrices=pattern))
    with pytest.raises(ConfigError, match=message):
        trainer.train(progress=False)
