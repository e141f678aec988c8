"""What a transformer over text and image tokens is told beside its prompt, as values that small functions make.

A network has three joints where a condition may enter: further tokens of either stream, what tokens may see of one
another, and what is added to the image after a block. A `Condition` fills any of them. A new kind of condition is one
more function that returns one; neither the networks nor the other kinds know of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError

Grid: TypeAlias = tuple[int, int, int]
"""Frames, rows and columns of the tokens of a picture."""


@dataclass(frozen=True)
class Words:
    """A text in a prompt's place: hidden states of the text encoder, and which of them are words (None: all).

    Raises:
        InputError: there are no hidden states, or the mask is of another number of them.
    """

    states: Float[Tensor, "#b t c"]
    mask: Shaped[Tensor, "#b _"] | None = None

    def __post_init__(self) -> None:
        length = self.states.shape[1]
        if not length:
            raise InputError(f"hidden states of a text must be of one token at least, got {list(self.states.shape)}")
        if self.mask is not None and self.mask.shape[1] != length:
            raise InputError(f"a text has {length} hidden states, and its mask is of {self.mask.shape[1]}")


@dataclass(frozen=True)
class Patches:
    """A picture as tokens: patches of latents, row by row, and the grid that they form."""

    tokens: Float[Tensor, "#b n c"]
    grid: Grid

    def __post_init__(self) -> None:
        if self.tokens.shape[1] != prod(self.grid):
            raise InputError(
                f"a grid of {'x'.join(map(str, self.grid))} has {prod(self.grid)} tokens, got {self.tokens.shape[1]}"
            )


@dataclass(frozen=True)
class Layout:
    """What is where among the tokens of joint attention: texts, the prompt last, and then pictures.

    `texts` are the texts' lengths, `grids` the pictures' grids, of which the first is the one that is drawn.
    """

    texts: tuple[int, ...]
    grids: tuple[Grid, ...]

    @property
    def text_length(self) -> int:
        """Tokens of all texts together."""
        return sum(self.texts)

    @property
    def image_length(self) -> int:
        """Tokens of all pictures together."""
        return sum(map(prod, self.grids))

    def text_span(self, index: int) -> slice:
        """Where the text of that index is."""
        start = sum(self.texts[:index])
        return slice(start, start + self.texts[index])

    def picture_span(self, index: int) -> slice:
        """Where the picture of that index is: 0 is the drawn one's, or the first layer's."""
        start = self.text_length + sum(map(prod, self.grids[:index]))
        return slice(start, start + prod(self.grids[index]))


class Own(NamedTuple):
    """The indices, in a layout, of those texts and of those pictures that are a condition's own."""

    texts: range
    pictures: range


Residual: TypeAlias = Callable[[int, Float[Tensor, "b n c"]], Float[Tensor, "b m c"] | None]
"""From the index of a block and the tokens that are drawn to what is added, after the block, to the first `m` image
tokens; None adds nothing."""

Sight: TypeAlias = Callable[[Layout, Own], Bool[Tensor, "#b all all"]]
"""From the layout, and what in it is the condition's own, to which token sees which."""


@dataclass(frozen=True)
class Condition:
    """What one condition contributes.

    Attributes:
        texts: texts beside the prompt, each with the positions of a prompt.
        pictures: pictures beside the drawn one, which are seen and not drawn.
        sight: which token may see which, where not all see all.
        residual: what is added to the image after a block.
    """

    texts: tuple[Words, ...] = ()
    pictures: tuple[Patches, ...] = ()
    sight: Sight | None = None
    residual: Residual | None = None


def references(*pictures: Patches) -> Condition:
    """Pictures that the drawn one may look at: what is edited, or in-context control."""
    return Condition(pictures=pictures)


def residual(add: Residual) -> Condition:
    """What a network beside this one adds to the image after its blocks."""
    return Condition(residual=add)


def block_samples(samples: Sequence[Float[Tensor, "b n c"]], blocks: int) -> Residual:
    """Residuals that a ControlNet made ahead, spread evenly over `blocks` blocks: each serves several in a row.

    Raises:
        InputError: there are none, or more than blocks.
    """
    if not samples:
        raise InputError("controlnet_block_samples has no samples; give None where there are none")
    if len(samples) > blocks:
        raise InputError(
            f"controlnet_block_samples has {len(samples)} samples, and the transformer {blocks} blocks to add them "
            "after: the ControlNet is of another transformer"
        )
    interval = -(-blocks // len(samples))
    return lambda block, drawn: samples[block // interval]


@dataclass(frozen=True)
class Region:
    """A text that is for a part of the picture. `area`, of any height and width, is positive there."""

    words: Words
    area: Shaped[Tensor, "#b h w"]


def regions(*parts: Region) -> Condition:
    """Texts that only parts of the picture see (Zhang et al., "EliGen", 2025, section 3.1).

    Image tokens see each other, the prompt, and the texts of the regions that they lie in, by so much as a part of the
    token; texts see themselves and the tokens of their region. Every picture beside the drawn one is divided alike.
    """

    def sight(layout: Layout, own: Own) -> Tensor:
        text, whole = layout.text_length, layout.text_length + layout.image_length
        items = max(len(part.area) for part in parts)
        device = parts[0].area.device
        sees = torch.ones(items, whole, whole, dtype=torch.bool, device=device)
        sees[:, :text, :text] = False
        for index in range(len(layout.texts)):
            span = layout.text_span(index)
            sees[:, span, span] = True
        for index, part in zip(own.texts, parts, strict=True):
            span = layout.text_span(index)
            inside = torch.cat([inside_of(part.area, grid) for grid in layout.grids], dim=1)
            sees[:, span, text:] = inside[:, None, :]
            sees[:, text:, span] = inside[:, :, None]
        return sees

    return Condition(texts=tuple(part.words for part in parts), sight=sight if parts else None)


def inside_of(area: Shaped[Tensor, "b h w"], grid: Grid) -> Bool[Tensor, "b n"]:
    """Which tokens of a picture lie in an area, by so much as a part of them."""
    frames, height, width = grid
    shares = functional.adaptive_max_pool2d((area > 0).float(), (height, width))
    return (shares > 0).flatten(1).repeat(1, frames)


def visible(
    layout: Layout, conditions: Iterable[Condition], masks: Sequence[Tensor | None], batch: int, device: torch.device
) -> Bool[Tensor, "#b 1 #all all"] | None:
    """Which token sees which, or None where all see all. `masks` are the texts', None where all of it is words."""
    sees: Tensor | None = None
    if any(mask is not None for mask in masks):
        words = [
            torch.ones(batch, length, dtype=torch.bool, device=device)
            if mask is None
            else mask.bool().expand(batch, -1)
            for mask, length in zip(masks, layout.texts, strict=True)
        ]
        words.append(torch.ones(batch, layout.image_length, dtype=torch.bool, device=device))
        sees = torch.cat(words, dim=1)[:, None, None, :]
    for condition, own in _owners(layout, conditions):
        if condition.sight is not None:
            more = condition.sight(layout, own).to(device).unsqueeze(1)
            sees = more if sees is None else sees & more
    return sees


def _owners(layout: Layout, conditions: Iterable[Condition]) -> Iterator[tuple[Condition, Own]]:
    conditions = tuple(conditions)
    text, picture = 0, len(layout.grids) - sum(len(condition.pictures) for condition in conditions)
    for condition in conditions:
        own = Own(range(text, text + len(condition.texts)), range(picture, picture + len(condition.pictures)))
        yield condition, own
        text, picture = own.texts.stop, own.pictures.stop
