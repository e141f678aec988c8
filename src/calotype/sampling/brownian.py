"""A Brownian path that can be read anywhere, and is the same wherever else it was read."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

DEPTH = 20
"""How often the interval is halved. Each part is then at most 2^-20 of the logarithm of the whole."""


@dataclass(frozen=True)
class BrownianPath:
    """W(t) for t from 0 to `end`, W(0) = 0, by Levy's construction: a point of an interval given its ends.

    An interval is cut at its geometric mean, so that small t are told apart as well as great ones. The value there is
    normal around the line through both ends, with variance `(m - l) (h - m) / (h - l)`. Its noise comes from a
    generator whose seed names the item and the interval, so that nothing is kept and the order of reading is no matter.
    Source: Lévy, "Processus stochastiques et mouvement brownien", section 1.

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
    def drawn(cls, noise: Tensor, end: float, finest: float) -> "BrownianPath":
        """The path that follows from standard normal noise [B, ...]: the noise says where it ends and what it does."""
        items = noise.detach().to("cpu", torch.float64)
        seeds = tuple(hashlib.blake2b(item.numpy().tobytes(), digest_size=16).digest() for item in items)
        return cls(noise * math.sqrt(end), end, min(finest, end / 2), seeds)

    def at(self, t: float) -> Tensor:
        """W(t), [B, ...]. A t outside of [0, end] is taken for the nearer end."""
        t = min(max(t, 0.0), self.end)
        low, high, name = self.finest, self.end, 1
        below = self._between(0.0, torch.zeros_like(self.last), high, self.last, low, 0)
        above = self.last
        if t <= low:
            return below * (t / low)
        for _ in range(DEPTH):
            if t in (low, high):
                break
            middle = math.sqrt(low * high)
            value = self._between(low, below, high, above, middle, name)
            lower = t < middle
            low, high = (low, middle) if lower else (middle, high)
            below, above = (below, value) if lower else (value, above)
            name = 2 * name + (not lower)
        return torch.lerp(below, above, (t - low) / (high - low))

    def _between(self, low: float, below: Tensor, high: float, above: Tensor, t: float, name: int) -> Tensor:
        """W(t) given its values at both ends of an interval, with the noise that belongs to that interval."""
        share = (t - low) / (high - low)
        spread = math.sqrt((t - low) * (high - t) / (high - low))
        noise = torch.stack([self._item_noise(seed, name) for seed in self.seeds]).to(self.last)
        return torch.add(torch.lerp(below, above, share), noise, alpha=spread)

    def _item_noise(self, seed: bytes, interval: int) -> Tensor:
        digest = hashlib.blake2b(seed + interval.to_bytes(8, "little"), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.randn(self.last.shape[1:], generator=generator)
