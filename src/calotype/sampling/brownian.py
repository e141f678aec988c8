"""A Brownian path that can be read anywhere, and is the same wherever else it was read."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

DEPTH = 24
"""How often the interval is halved: a step is told from one 2^-24 of the interval further."""


@dataclass(frozen=True)
class BrownianPath:
    """W(t) for t from 0 to `end`, W(0) = 0, by Levy's construction: the middle of an interval given its ends.

    The value in the middle is normal around the mean of both ends, with a quarter of the interval for variance. Its
    noise comes from a generator whose seed names the item and the interval, so that nothing has to be kept and the
    order of reading does not matter. Source: Lévy, "Processus stochastiques et mouvement brownien", section 1.

    Attributes:
        last: W(end), [B, ...].
        end: the greatest t.
        finest: below this t the path is a straight line to 0.
        seeds: of each item.
    """

    last: Tensor
    end: float
    finest: float
    seeds: tuple[bytes, ...]

    @classmethod
    def drawn(cls, noise: Tensor, end: float, finest: float = 0.0) -> "BrownianPath":
        """The path that follows from standard normal noise [B, ...]: the noise says where it ends and what it does."""
        items = noise.detach().to("cpu", torch.float64)
        seeds = tuple(hashlib.blake2b(item.numpy().tobytes(), digest_size=16).digest() for item in items)
        return cls(noise * math.sqrt(end), end, finest, seeds)

    def at(self, t: float) -> Tensor:
        """W(t), [B, ...]. A t outside of [0, end] is taken for the nearer end."""
        low, high, name = 0.0, self.end, 1
        below, above = torch.zeros_like(self.last), self.last
        t = min(max(t, low), high)
        for _ in range(DEPTH):
            if t in (low, high) or high <= self.finest:
                break
            middle = (low + high) / 2
            value = torch.add((below + above) / 2, self._noise(name), alpha=math.sqrt(high - low) / 2)
            lower = t < middle
            low, high = (low, middle) if lower else (middle, high)
            below, above = (below, value) if lower else (value, above)
            name = 2 * name + (not lower)
        return torch.lerp(below, above, (t - low) / (high - low))

    def _noise(self, interval: int) -> Tensor:
        """The standard normal noise [B, ...] that belongs to the middle of an interval."""
        return torch.stack([self._item_noise(seed, interval) for seed in self.seeds]).to(self.last)

    def _item_noise(self, seed: bytes, interval: int) -> Tensor:
        digest = hashlib.blake2b(seed + interval.to_bytes(8, "little"), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.randn(self.last.shape[1:], generator=generator)
