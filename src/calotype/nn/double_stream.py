"""Transformer blocks in which text and image keep weights of their own and meet in one attention.

The structure is that of Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024),
figure 2, with modulation by the time alone. Tokens are rows, `[batch * tokens, channels]`, from block to block, so that
every layer between is a plain matrix product.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.nn.attention_backends import Attend
from calotype.nn.inference import infers
from calotype.nn.linear import Linear, linear_gelu
from calotype.nn.normalization import RMSNorm
from calotype.nn.rope import rotated
from calotype.nn.side_by_side import can_lie_side_by_side, lay_apart, lay_side_by_side, products

_EPS = 1e-6

_CUT_TOGETHER = 1 << 22
"""How many numbers the vectors have, about, that the times of several blocks are cut of at once."""


class Change(NamedTuple):
    """How the time changes one layer: `[c]` where all rows share the time, `[b, 1, c]` where items have their own.

    The normalised rows are multiplied by `scale` and moved by `shift`; what the layer gives is multiplied by `gate`.
    """

    shift: Tensor
    scale: Tensor
    gate: Tensor


class Changes(NamedTuple):
    """How the time changes the attention and the feed-forward layer of one stream."""

    attention: Change
    feed: Change


class BlockTime(NamedTuple):
    """How the time changes one block. The image may have two times: the drawn picture's and that of those beside it."""

    image: tuple[Changes, ...]
    text: Changes


@dataclass(frozen=True)
class Joint:
    """What all blocks of one forward pass share.

    Attributes:
        batch: how many items there are.
        text_length: tokens of an item's texts.
        spans: tokens of an item's image for each of the image's times.
        turns: the rotary positions of image and texts, once for queries and once for keys.
        mask: which token sees which, image first, or None where all see all.
        attend: the kernel.
        runs: where padding at the end is all that nobody sees: how many items in a row, and how many tokens each has
            without it. Each run is attended to by itself, and needs no mask.
    """

    batch: int
    text_length: int
    spans: tuple[int, ...]
    turns: Tensor
    mask: Tensor | None
    attend: Attend
    runs: tuple[tuple[int, int], ...] = ()

    def alone(self) -> "Joint":
        """The same where every image token sees of the image itself alone: perturbed attention."""
        count = sum(self.spans)
        whole = count + self.text_length
        sees = torch.ones(whole, whole, dtype=torch.bool, device=self.turns.device)
        sees[:count, :count] = torch.eye(count, dtype=torch.bool, device=sees.device)
        return replace(self, mask=sees[None, None] if self.mask is None else self.mask & sees, runs=())

    def seen(
        self, query: Float[Tensor, "b h n c"], key: Float[Tensor, "b h n c"], value: Float[Tensor, "b h n c"]
    ) -> Float[Tensor, "b n h c"]:
        """What the tokens see; where runs of items are attended to by themselves, padding sees nothing."""
        if not self.runs:
            return self.attend(query, key, value, self.mask).transpose(1, 2)
        batch, heads, tokens, width = value.shape
        seen = value.new_zeros(batch, tokens, heads, width)
        start = 0
        for items, length in self.runs:
            rows = slice(start, start + items)
            query_, key_, value_ = (part[rows, :, :length] for part in (query, key, value))
            seen[rows, :length] = self.attend(query_, key_, value_, None).transpose(1, 2)
            start = rows.stop
        return seen


class JointAttention(nn.Module):
    """Attention of text and image to both. Queries and keys are normalised (Dehghani et al., "Scaling Vision
    Transformers to 22 Billion Parameters", 2023, section 2.1) and turned by their positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.add_q_proj = Linear(channels, channels)
        self.add_k_proj = Linear(channels, channels)
        self.add_v_proj = Linear(channels, channels)
        self.to_out = nn.ModuleList([Linear(channels, channels)])
        self.to_add_out = Linear(channels, channels)
        self.norm_q = RMSNorm(channels // heads, eps=_EPS)
        self.norm_k = RMSNorm(channels // heads, eps=_EPS)
        self.norm_added_q = RMSNorm(channels // heads, eps=_EPS)
        self.norm_added_k = RMSNorm(channels // heads, eps=_EPS)
        self.is_fused = False
        """Whether queries, keys and values of each stream are computed as one product, where their weights allow it."""

    def fuse(self) -> bool:
        """Have each stream's queries, keys and values be one product. Returns whether the weights allow it now."""
        self.is_fused = all(can_lie_side_by_side(layers) for layers in self._inputs())
        self._lay_side_by_side()
        return self.is_fused

    def unfuse(self) -> None:
        """Have every product be computed by itself, from weights of its own."""
        if self.is_fused:
            self.is_fused = False
            for layers in self._inputs():
                lay_apart(layers)

    def _inputs(self) -> tuple[tuple[nn.Linear, ...], tuple[nn.Linear, ...]]:
        """The layers of queries, keys and values: of the text, and of the image."""
        return (self.add_q_proj, self.add_k_proj, self.add_v_proj), (self.to_q, self.to_k, self.to_v)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "JointAttention":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._lay_side_by_side()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lay_side_by_side()  # what is copied or unpickled has weights that lie apart

    def _lay_side_by_side(self) -> None:
        if self.is_fused:
            for layers in self._inputs():
                lay_side_by_side(layers)

    def forward(
        self, image: Float[Tensor, "n c"], text: Float[Tensor, "t c"], joint: Joint, text_goes_on: bool = True
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "t c"] | None]:
        """What image and text see. Without `text_goes_on`, what the text sees is left out."""
        of_text, of_image = self._projected(text, image)
        normed = self._normed((of_image[0], of_text[0], of_image[1], of_text[1]), joint.batch)
        turned = rotated(normed, joint.turns).to(image.dtype)
        query, key = turned.transpose(1, 2).chunk(2, dim=2)
        value = self._joined((of_image[2], of_text[2]), joint.batch).transpose(1, 2)
        by_image, by_text = _rows(joint.seen(query, key, value), joint)
        (to_out,) = self.to_out  # unpacked, as below: an index into a list of modules takes as long as a small product
        drawn: Tensor = to_out(by_image)
        return drawn, self.to_add_out(by_text) if text_goes_on else None

    def _projected(self, *streams: Tensor) -> list[list[Tensor]]:
        """Queries, keys and values of the text and of the image."""
        if self.is_fused:
            return [products(rows, layers) for rows, layers in zip(streams, self._inputs(), strict=True)]
        return [[layer(rows) for layer in layers] for rows, layers in zip(streams, self._inputs(), strict=True)]

    def _heads(self, rows: Float[Tensor, "b_n c"], batch: int) -> Float[Tensor, "b n h c2"]:
        return rows.view(batch, -1, self.heads, rows.shape[-1] // self.heads)

    def _joined(self, parts: Sequence[Float[Tensor, "_ c"]], batch: int) -> Float[Tensor, "b all h c2"]:
        """Every item's rows of all parts, one part after the other, as heads."""
        items = parts if batch == 1 else [part.view(batch, -1, part.shape[-1]) for part in parts]
        whole = torch.cat(list(items), dim=-2)
        return whole.view(batch, -1, self.heads, whole.shape[-1] // self.heads)

    def _normed(self, parts: Sequence[Float[Tensor, "_ c"]], batch: int) -> Float[Tensor, "b all h c2"]:
        """Queries of image and text, then keys of image and text, all normalised: in float32 where that is cheap."""
        norms = (self.norm_q, self.norm_added_q, self.norm_k, self.norm_added_k)
        if not infers() or torch.compiler.is_compiling():
            return torch.cat([norm(self._heads(part, batch)) for norm, part in zip(norms, parts, strict=True)], dim=1)
        whole = self._joined(parts, batch).float()
        whole.mul_(whole.square().mean(-1, keepdim=True).add_(_EPS).rsqrt_())
        lengths = [len(part) // batch for part in parts]
        for part, norm in zip(whole.split_with_sizes(lengths, dim=1), norms, strict=True):
            part.mul_(norm.weight)
        return whole


class Gelu(nn.Module):
    """A linear layer and the Gaussian error linear unit, by its approximation with a hyperbolic tangent."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(channels, inner)

    def forward(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n inner"]:
        return linear_gelu(self.proj, rows)


class FeedForward(nn.Module):
    """A layer of four times the width, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gelu(channels, 4 * channels), nn.Identity(), Linear(4 * channels, channels)])

    def forward(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        gelu, _, out = self.net
        fed: Tensor = out(gelu(rows))
        return fed


class DoubleStreamBlock(nn.Module):
    """Joint attention, then a feed-forward layer for each stream; both changed by the time, and added."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.attn = JointAttention(channels, heads)
        self.img_mlp = FeedForward(channels)
        self.txt_mlp = FeedForward(channels)

    def time(self, active: Sequence[Float[Tensor, "m c"]]) -> BlockTime:
        """How the times change this block, from their activated vectors: the drawn picture's first, and the text's."""
        *image, text = self.raw_times(active)
        return BlockTime(tuple(map(_changes, image)), _changes(text))

    def raw_times(self, active: Sequence[Float[Tensor, "m c"]]) -> list[Float[Tensor, "m six_c"]]:
        """The vectors that change this block, not yet cut: of each of the image's times, then of the text."""
        (_, of_image), (_, of_text) = self.img_mod, self.txt_mod
        return [*map(of_image, active), of_text(active[0])]

    def entering(
        self, image: Float[Tensor, "n c"], time: BlockTime | Sequence[Tensor], joint: Joint
    ) -> Float[Tensor, "n c"]:
        """What of the image enters the attention: the rows, normalised and changed by the time."""
        change = time if isinstance(time, BlockTime) else self.time(time)
        return normed(image, [part.attention for part in change.image], joint.batch, joint.spans)

    def forward(
        self,
        image: Float[Tensor, "n c"],
        text: Float[Tensor, "t c"],
        time: BlockTime | Sequence[Tensor],
        joint: Joint,
        text_goes_on: bool = True,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "t c"]]:
        """`time` is what `time` gave for this block, or the vectors to give it. Without `text_goes_on`, the text is
        as it was: no later block looks at it."""
        change = time if isinstance(time, BlockTime) else self.time(time)
        spans = joint.spans
        first, whole = [part.attention for part in change.image], (joint.text_length,)
        seen, heard = self.attn(
            normed(image, first, joint.batch, spans),
            normed(text, [change.text.attention], joint.batch, whole),
            joint,
            text_goes_on,
        )
        image = gated(image, seen, first, joint.batch, spans)
        then = [part.feed for part in change.image]
        image = gated(image, self.img_mlp(normed(image, then, joint.batch, spans)), then, joint.batch, spans)
        if heard is None:
            return _finite(image), text
        text = gated(text, heard, [change.text.attention], joint.batch, whole)
        last = [change.text.feed]
        text = gated(text, self.txt_mlp(normed(text, last, joint.batch, whole)), last, joint.batch, whole)
        return _finite(image), _finite(text)


def normed(rows: Tensor, changes: Sequence[Change], batch: int, spans: Sequence[int]) -> Float[Tensor, "n c"]:
    """The rows normalised, scaled and shifted; with several changes, each for its span of every item's rows."""
    width = rows.shape[-1:]
    if len(changes) == 1 and changes[0].shift.ndim == 1:
        return functional.layer_norm(rows, width, changes[0].scale, changes[0].shift, _EPS)
    plain = functional.layer_norm(rows, width, eps=_EPS)
    parts = plain.view(batch, -1, *width).split_with_sizes(list(spans), dim=1)
    moved = [torch.addcmul(change.shift, part, change.scale) for part, change in zip(parts, changes, strict=True)]
    return torch.cat(moved, dim=1).view(rows.shape)


def gated(rows: Tensor, fresh: Tensor, changes: Sequence[Change], batch: int, spans: Sequence[int]) -> Tensor:
    """`rows` and what a layer gave for them, times the gate. Nothing else holds `fresh`: it may be overwritten."""
    if len(changes) == 1 and changes[0].gate.ndim == 1:
        out = fresh if infers() else None
        return torch.addcmul(rows, changes[0].gate, fresh, out=out)
    before, given = (
        each.view(batch, -1, rows.shape[-1]).split_with_sizes(list(spans), dim=1) for each in (rows, fresh)
    )
    sums = [torch.addcmul(x, change.gate, y) for x, y, change in zip(before, given, changes, strict=True)]
    return torch.cat(sums, dim=1).view(rows.shape)


def _changes(raw: Float[Tensor, "m six_c"]) -> Changes:
    """The six vectors of a stream's modulation: shift, scale and gate of the attention, then of the rest."""
    six = raw.view(len(raw), 6, -1)
    six[:, 1::3].add_(1)
    parts = six[0].unbind(0) if len(raw) == 1 else six.unsqueeze(1).unbind(2)
    return Changes(Change(*parts[:3]), Change(*parts[3:]))


def times_ahead(
    blocks: Sequence[DoubleStreamBlock], active: Sequence[Float[Tensor, "steps c"]]
) -> Iterator[list[BlockTime]]:
    """How each of several times, by itself, changes each of the blocks, whose weights are read once for all times.

    The vectors of several blocks are parts of one tensor, cut in one go.
    """
    steps, streams = len(active[0]), len(active) + 1
    several = max(1, _CUT_TOGETHER // (6 * active[0].numel() * streams))
    for start in range(0, len(blocks), several):
        raw = torch.stack([raw for block in blocks[start : start + several] for raw in block.raw_times(active)])
        six = raw.view(*raw.shape[:2], 6, -1)
        six[:, :, 1::3].add_(1)
        parts = six.flatten(0, 2).unbind(0)
        cut = [Changes(Change(*parts[at : at + 3]), Change(*parts[at + 3 : at + 6])) for at in range(0, len(parts), 6)]
        each = [cut[at : at + steps] for at in range(0, len(cut), steps)]
        for at in range(0, len(each), streams):
            *image, text = each[at : at + streams]
            yield [BlockTime(*both) for both in zip(zip(*image, strict=True), text, strict=True)]


def _rows(seen: Float[Tensor, "b n h c"], joint: Joint) -> Sequence[Float[Tensor, "_ c2"]]:
    """The rows of the image, and those of the text, each of all items."""
    lengths = [sum(joint.spans), joint.text_length]
    if joint.batch == 1:
        return seen.reshape(-1, seen.shape[2] * seen.shape[3]).split_with_sizes(lengths)
    return [part.flatten(0, 1) for part in seen.flatten(2).split_with_sizes(lengths, dim=1)]


def _finite(rows: Tensor) -> Tensor:
    """In half precision, numbers beyond its range become its largest."""
    return rows.clamp(-65504, 65504) if rows.dtype == torch.float16 else rows
