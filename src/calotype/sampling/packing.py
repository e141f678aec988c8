"""The form in which a loop works on its latents, where that is not the form that everyone else sees."""

from typing import Any, Protocol, runtime_checkable

from torch import Size, Tensor

from calotype.sampling.noise import NoiseSource


@runtime_checkable
class Packing(Protocol):
    """Latents in another order, as their predictor takes them: tokens, where a network works on tokens.

    Every number is there once and items stay along the first dimension, so that what is done to each number for itself,
    or to all numbers of an item, is the same in both forms.
    """

    def pack(self, latents: Tensor) -> Tensor:
        """Latents [b, c, ...] in this form [b, ...]."""

    def unpack(self, packed: Tensor, shape: Size) -> Tensor:
        """The same as latents, of this shape but for the first dimension."""


class Form:
    """What a loop's value [b, c, ...] of one shape is while the loop runs: packed, or with no packing as it is.

    `guided` says whether the loop's policy combines predictions in that form.
    """

    def __init__(self, packing: Packing | None, value: Any, guided: bool = True) -> None:
        self.packing, self.guided = packing, guided
        self._shape = Size() if packing is None else value.shape

    def pack(self, latents: Any) -> Any:
        """A value as the loop works on it."""
        return latents if self.packing is None else self.packing.pack(latents)

    def unpack(self, packed: Any) -> Any:
        """A value as units, policies and those who look at the steps see it."""
        return packed if self.packing is None else self.packing.unpack(packed, self._shape)

    def drawing(self, source: NoiseSource) -> NoiseSource:
        """A source that draws the same noise for packed latents as `source` does for latents."""
        return source if self.packing is None else lambda packed: self.pack(source(self.unpack(packed)))
