"""The transformer of text-conditioned U-Nets: among the pixels of a map, and from them to a text.

Pixels are rows, `[batch * pixels, channels]`, from the first projection to the last, so that every layer between is a
plain matrix product.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from calotype.nn.activations import added
from calotype.nn.attention_control import AttentionControl, AttentionSite, Heads, controlled
from calotype.nn.inference import infers
from calotype.nn.linear import Linear
from calotype.nn.linear import linear as product

KeysAndValues: TypeAlias = tuple[Tensor, Tensor]
"""One layer's keys and values of the text, each `[b, heads, tokens, head channels]`."""


class PicturePrompt(NamedTuple):
    """A picture as tokens that layers attend to beside the text (Ye et al., "IP-Adapter", 2023, section 3.2).

    `layers` are each layer's keys and values `[b, tokens, channels]`, in the order of the blocks' `place`. What they
    give is multiplied by `scale`, one number or one for each layer, and, where there is one, by a mask of any size,
    `[#b, 1, h, w]`.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    scale: float | tuple[float, ...] = 1.0
    mask: Tensor | None = None

    def at(self, place: int) -> float:
        """The scale in a layer."""
        return self.scale[place] if isinstance(self.scale, tuple) else self.scale

    def of(self, place: int) -> "PicturePrompt":
        """The same for one layer alone."""
        return self._replace(layers=(self.layers[place],), scale=self.at(place))


class Text(NamedTuple):
    """What cross-attention attends to.

    `states` are the text's hidden states `[b, tokens, channels]`, or the keys and values of every layer, in the order
    of the layers. `bias` is added to the scores, `[b, 1, 1, tokens]`, or `None`. `pictures` are attended to apart from
    the text, and added. `controls` look into every layer, for maps of `size`.
    """

    states: Tensor | tuple[KeysAndValues, ...]
    bias: Tensor | None = None
    pictures: tuple[PicturePrompt, ...] = ()
    controls: tuple[AttentionControl, ...] = ()
    size: tuple[int, int] = (0, 0)

    def at(self, height: int, width: int) -> "Text":
        """The same for a map of a size: with the pictures' masks as rows `[#b, height * width, 1]`."""
        text = self._replace(size=(height, width)) if self.controls else self
        if all(picture.mask is None for picture in self.pictures):
            return text
        return text._replace(pictures=tuple(_sized(picture, height, width) for picture in self.pictures))

    def of(self, block: "TransformerBlock") -> "Text":
        """The same for one block: of what there is for every layer, that of its own. All blocks are then given values
        of one form, so that what is compiled for one fits the others."""
        text = self
        if not isinstance(self.states, Tensor):
            text = text._replace(states=self.states[block.first : block.first + block.text_layers])
        return text._replace(pictures=tuple(p.of(block.place) for p in self.pictures)) if self.pictures else text


def _sized(picture: PicturePrompt, height: int, width: int) -> PicturePrompt:
    if picture.mask is None:
        return picture
    mask = functional.interpolate(picture.mask, size=(height, width), mode="bicubic")
    return picture._replace(mask=mask.flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Attention with several heads: to the tokens of a text that is `text_channels` wide, or of the rows to one another
    where that is `None`.

    Args:
        index: the layer's place among those of its block that attend to the text.
        sees_pictures: it attends to pictures as well.

    `name` is the layer's name in its network, which sets it.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        text_channels: int | None = None,
        *,
        index: int = 0,
        sees_pictures: bool = False,
    ) -> None:
        super().__init__()
        context_channels = text_channels or channels
        self.heads = heads
        self.of_text = text_channels is not None
        self.index = index
        self.sees_pictures = sees_pictures
        self.name = ""
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_channels, channels, bias=False)
        self.to_v = Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, rows: Float[Tensor, "n c"], batch: int, text: Text, alone: bool = False) -> Float[Tensor, "n c"]:
        """`rows` are the pixels of `batch` items, one item after the other. `alone`: each looks at itself only."""
        if alone:
            own: Tensor = self.to_out[0](self.to_v(rows))
            return own
        query, bias = self._heads(self.to_q(rows), batch), None
        if self.of_text:
            states, bias = text.states, text.bias
            keys, values = self.project(states) if isinstance(states, Tensor) else states[self.index]
        else:
            keys, values = self._heads(self.to_k(rows), batch), self._heads(self.to_v(rows), batch)
        if text.controls:
            site = AttentionSite(self.name, *text.size, words=keys.shape[2] if self.of_text else 0)
            attended = controlled(text.controls, site, Heads(query, keys, values, bias))
        else:
            attended = scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        seen = attended.transpose(1, 2).reshape(rows.shape)
        if self.sees_pictures:
            for picture in text.pictures:
                if scale := picture.at(0):
                    seen = seen + scale * self._of(picture, query, batch).view(rows.shape)
        out: Tensor = self.to_out[0](seen)
        return out

    def _of(self, picture: PicturePrompt, query: Tensor, batch: int) -> Tensor:
        """What the rows see of a picture, which is for this layer alone: [b, pixels, c]."""
        (layer,) = picture.layers
        keys, values = (self._heads(part.flatten(0, 1), len(part)).expand(batch, -1, -1, -1) for part in layer)
        seen = scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        return seen if picture.mask is None else seen * picture.mask.to(seen)

    def project(self, states: Float[Tensor, "b tokens c2"]) -> KeysAndValues:
        """The keys and values of a text: the same in every step of a call."""
        batch = len(states)
        rows = states.flatten(0, 1)
        return self._heads(self.to_k(rows), batch), self._heads(self.to_v(rows), batch)

    def _heads(self, rows: Tensor, batch: int) -> Tensor:
        return rows.view(batch, len(rows) // batch, self.heads, -1).transpose(1, 2)


class GatedLinear(nn.Module):
    """A linear layer of twice the width, one half of which gates the other ("GLU Variants Improve Transformer")."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(channels, 2 * inner)

    def forward(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n inner"]:
        values, gate = self.proj(rows).chunk(2, dim=-1)
        opened = functional.gelu(gate)
        return opened.mul_(values) if infers() else values * opened


class FeedForward(nn.Module):
    """A gated layer of four times the width, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.net = nn.ModuleList([GatedLinear(channels, inner), nn.Identity(), Linear(inner, channels)])

    def forward(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        out: Tensor = self.net[2](self.net[0](rows))
        return out


class TransformerBlock(nn.Module):
    """Attention among the pixels, attention to the text, a gated layer; each normalised before and added after.

    With `only_text`, the first attention is to the text as well. `first` is the place of the first layer that attends
    to the text among those of the network, and `place` the block's among those that may attend to pictures; the network
    sets them.
    """

    def __init__(self, channels: int, heads: int, text_channels: int, *, only_text: bool = False) -> None:
        super().__init__()
        self.first = self.place = 0
        self.text_layers = 1 + only_text
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, text_channels if only_text else None)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, text_channels, index=int(only_text), sees_pictures=True)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, rows: Float[Tensor, "n c"], batch: int, text: Text, alone: bool = False) -> Float[Tensor, "n c"]:
        rows = added(self.attn1(self.norm1(rows), batch, text, alone), rows)
        rows = added(self.attn2(self.norm2(rows), batch, text), rows)
        return added(self.ff(self.norm3(rows)), rows)


class RowsConv2d(nn.Conv2d):
    """A 1x1 convolution of pixels that are rows already: a linear layer with the weight of a convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n c2"]:
        return product(rows, self.weight.flatten(1), self.bias)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a map, added to it ("High-Resolution Image Synthesis with Latent Diffusion
    Models", section 3.3).

    Args:
        channels: of the map, a multiple of `heads` and of `groups`.
        text_channels: the width of the text's hidden states.
        depth: the number of blocks.
        groups: groups of the normalisation before them.
        linear: the projections in and out have the weights of linear layers, otherwise of 1x1 convolutions.
        only_text: no attention among the pixels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        text_channels: int,
        *,
        depth: int = 1,
        groups: int = 32,
        linear: bool = False,
        only_text: bool = False,
    ) -> None:
        super().__init__()
        projection = Linear if linear else RowsConv2d
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, text_channels, only_text=only_text) for _ in range(depth)
        )
        self.proj_out = projection(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"], text: Text, alone: bool = False) -> Float[Tensor, "b c h w"]:
        """With `alone`, pixels do not look at one another: perturbed attention."""
        batch, channels, height, width = x.shape
        rows = self.proj_in(self.norm(x).permute(0, 2, 3, 1).reshape(-1, channels))
        text = text.at(height, width)
        for block in cast("Sequence[TransformerBlock]", self.transformer_blocks):
            rows = block(rows, batch, text.of(block), alone)
        h: Tensor = self.proj_out(rows).view(batch, height, width, channels)
        return x + h.permute(0, 3, 1, 2)
