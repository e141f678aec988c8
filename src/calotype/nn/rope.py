"""Rotary positions of tokens that have several coordinates: a frame, a row and a column.

Neighbouring channels of a head are a point in the plane, which is turned by an angle that grows with the position (Su
et al., "RoFormer", 2021, section 3.4.2). Each coordinate turns channels of its own.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from calotype.nn.inference import infers


def rope_table(
    positions: Int[Tensor, "n axes"], widths: Sequence[int], theta: float = 10000.0
) -> Float[Tensor, "n half 2"]:
    """Cosine and sine of the angle by which each token turns each pair of channels, in float32.

    `widths` are the channels that each coordinate turns, all even; together they are a head's, of which there are
    twice `half`.
    """
    angles = []
    for place, width in enumerate(widths):
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
        angles.append(torch.outer(positions[:, place].float(), 1.0 / torch.pow(theta, exponents)))
    whole = torch.cat(angles, dim=1)
    return torch.stack((whole.cos(), whole.sin()), dim=-1)


def turns_of(table: Float[Tensor, "n half 2"], *, real: bool = False) -> Shaped[Tensor, "n 1 half *two"]:
    """The table as `rotated` wants it: complex numbers, but for code that is compiled, which makes loops of its own
    only of real ones. `real` says that what will turn is compiled, where this is not."""
    rows = table.unsqueeze(1)
    return rows if real or torch.compiler.is_compiling() else torch.view_as_complex(rows)


def rotated(fresh: Float[Tensor, "b n h c"], turns: Shaped[Tensor, "n 1 half *two"]) -> Float[Tensor, "b n h c"]:
    """`fresh` with every pair of channels turned, in float32.

    Nothing else holds `fresh`: without gradients its memory may be taken for the result.
    """
    whole = fresh.float()
    if turns.is_complex() and infers():
        return whole.view(torch.complex64).mul_(turns).view(torch.float32)
    pairs = whole.view(*whole.shape[:-1], -1, 2)
    if not turns.is_complex():
        x, y = pairs.unbind(-1)
        cos, sin = turns.unbind(-1)
        return torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(-2)
