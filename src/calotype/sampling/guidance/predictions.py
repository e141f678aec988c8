"""The predictions of one step, and the clean samples that they imply."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.graph.branches import POSITIVE
from calotype.sampling.moves import Mix


@dataclass(frozen=True)
class Predictions(Mapping[str, Tensor]):
    """What the network predicted on each branch, by the branch's name.

    Attributes:
        outputs: the network's outputs [B, C, ...] or, with a learned variance, [B, 2C, ...].
        latents: the latents [B, C, ...] that they are about.
        reading: the weights of latents and output that give the clean sample.
        packed: whether all of them are packed (`calotype.sampling.packing`), for policies that say that they take it.
    """

    outputs: Mapping[str, Tensor]
    latents: Tensor
    reading: Mix
    packed: bool = False

    def __getitem__(self, name: str) -> Tensor:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def clean(self, name: str) -> Tensor:
        """The clean sample [B, C, ...] that a branch's prediction implies, at least in float32."""
        return self.reading.of(_wide(self.latents), _wide(self._without_variance(self.outputs[name])))

    def output(self, clean: Tensor) -> Tensor:
        """The output of the network that implies this clean sample, with the positive branch's learned variance.

        At a level without noise every output implies the same sample; it is the positive branch's.
        """
        positive = self.outputs[POSITIVE.name]
        if self.reading.output == 0.0:
            return positive
        found = (clean - _wide(self.latents) * self.reading.latents) / self.reading.output
        return torch.cat([found.to(positive.dtype), positive[:, self.latents.shape[1] :]], dim=1)

    def _without_variance(self, output: Tensor) -> Tensor:
        return output[:, : self.latents.shape[1]]


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
