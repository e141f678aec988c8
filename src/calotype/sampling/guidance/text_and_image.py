"""Guidance by a text and a picture at once, for networks that edit by instruction."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.guidance.policy import check_number
from calotype.sampling.step import Step

NO_TEXT = "no_text"
"""The branch that takes the negative of every input that has one, and keeps the picture."""

NEITHER = "neither"
"""The branch that takes the negative of every input that has one, and is shown no picture."""


@dataclass(frozen=True)
class TextAndImage:
    """`neither + image_scale * (no_text - neither) + scale * (positive - no_text)`.

    A branch whose weight is 0, as that of `neither` with an `image_scale` of 1, is not predicted. The unit that makes
    what the network sees of the picture makes nothing (zeros) of it on the branch `neither`.

    Source: Brooks et al., "InstructPix2Pix: Learning to Follow Image Editing Instructions", eq. 3.

    Attributes:
        scale: weight of what the text adds to the picture.
        image_scale: weight of what the picture adds to nothing.

    Raises:
        InputError: a value is not finite.
    """

    scale: float
    image_scale: float

    def __post_init__(self) -> None:
        for name, value in (("guidance scale", self.scale), ("image guidance scale", self.image_scale)):
            check_number(name, value, "1 turns it off")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        known = (POSITIVE, Branch(NO_TEXT, twins), Branch(NEITHER, twins))
        return tuple(branch for branch in known if self._weights[branch.name] or branch is POSITIVE)

    def active(self, step: Step) -> tuple[str, ...]:
        return tuple(branch.name for branch in self.branches(frozenset()))

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        combined = predictions[POSITIVE.name] * self._weights[POSITIVE.name]
        for name in (NO_TEXT, NEITHER):
            if name in predictions:
                combined = torch.add(combined, predictions[name], alpha=self._weights[name])
        return combined

    @property
    def _weights(self) -> dict[str, float]:
        return {POSITIVE.name: self.scale, NO_TEXT: self.image_scale - self.scale, NEITHER: 1.0 - self.image_scale}
