"""Attention layers shared by networks."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from calotype.nn.linear import Linear
from calotype.nn.normalization import GroupNorm


class SpatialSelfAttention(nn.Module):
    """Self-attention among the pixels of a map, added to it.

    Args:
        channels: of the map.
        head_channels: the width of a head, by default all channels (one head). Where it does not divide the channels,
            the heads together are narrower than the map.
        groups: groups of the normalisation before it, or `None` for none.
        output_scale: what the sum is divided by.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_channels: int | None = None,
        groups: int | None = 32,
        eps: float = 1e-6,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        head_channels = head_channels or channels
        self.heads = channels // head_channels
        inner = self.heads * head_channels
        self.output_scale = output_scale
        self.group_norm = None if groups is None else GroupNorm(groups, channels, eps=eps)
        self.to_q = Linear(channels, inner)
        self.to_k = Linear(channels, inner)
        self.to_v = Linear(channels, inner)
        self.to_out = nn.ModuleList([Linear(inner, channels)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        batch, channels, height, width = x.shape
        h = x if self.group_norm is None else self.group_norm(x)
        pixels = h.flatten(2).transpose(1, 2).reshape(-1, channels)  # one row per pixel: a plain matrix product each
        q, k, v = (self._heads(project(pixels), batch) for project in (self.to_q, self.to_k, self.to_v))
        attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch * height * width, -1)
        h = self.to_out[0](attended).view(batch, height, width, channels).permute(0, 3, 1, 2)
        x = x + h
        return x if self.output_scale == 1 else x / self.output_scale

    def _heads(self, rows: Tensor, batch: int) -> Tensor:
        return rows.view(batch, -1, self.heads, rows.shape[-1] // self.heads).transpose(1, 2)
