"""Multistep methods that integrate a polynomial through past predictions of the noise.

In `y = x / alpha` against `rho = sigma / alpha` the probability-flow ODE is `dy = noise d(rho)`. With a polynomial in
some coordinate of rho through the noises at the last levels, `y' = y + sum_j c_j noise_j`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.levels import Level
from calotype.sampling.solver import Prediction

History = tuple[tuple[Level, Tensor], ...]
"""Predictions and the levels that they are of, the latest first."""

Polynomial = tuple[float, ...]
"""Coefficients of the powers 0, 1, 2, ..."""

Integrate = Callable[[Polynomial, float, float], float]
"""The integral of a polynomial in the coordinate, over rho from one value to another."""


def remembered(now: Level, value: Tensor, state: History | None, order: int) -> History:
    """The predictions that an order needs, with that of now first. A level that was evaluated twice counts once."""
    past = [(level, known) for level, known in state or () if ratio(level) != ratio(now)]
    return ((now, value), *past)[: max(order, 1)]


def integrated(now: Prediction, history: History, coordinate: Callable[[float], float], integrate: Integrate) -> Tensor:
    """The latents at `now.there` by the polynomial through a history of noises. Raises `InputError` where a step begins
    with noise alone."""
    refuse_noise_alone(now.here)
    nodes = [coordinate(ratio(level)) for level, _ in history]
    start, end, kept = ratio(now.here), ratio(now.there), now.there.alpha / now.here.alpha
    moved = now.x * kept
    for j, (_, noise) in enumerate(history):
        weight = integrate(basis(nodes, j), start, end) * now.there.alpha
        moved = torch.add(moved, noise, alpha=weight)
    return moved


def basis(nodes: Sequence[float], j: int) -> Polynomial:
    """The Lagrange polynomial that is 1 at node j and 0 at the others."""
    made = [1.0]
    for node in (*nodes[:j], *nodes[j + 1 :]):
        length = nodes[j] - node  # times (t - node) / length
        made = [(low - node * high) / length for low, high in zip([0.0, *made], [*made, 0.0], strict=True)]
    return tuple(made)


def refuse_noise_alone(here: Level) -> None:
    """Raise `InputError` for a level without signal, which no polynomial goes through."""
    if not here.alpha:
        raise InputError(
            f"this solver cannot begin with noise alone, as the levels do at timestep {here.timestep:g}; take "
            "DpmMultistep or UniPc, or a schedule that begins with some signal"
        )


def value(polynomial: Polynomial, t: float) -> float:
    """The polynomial at t, by Horner's rule."""
    found = 0.0
    for coefficient in reversed(polynomial):
        found = found * t + coefficient
    return found


def ratio(level: Level) -> float:
    """The noise over signal of a level; infinite where there is noise alone."""
    return level.sigma / level.alpha if level.alpha else math.inf
