"""The residual block that convolutional denoisers and autoencoders are made of."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.nn.activations import ACTIVATIONS, activated, added
from calotype.nn.convolution import Conv2d
from calotype.nn.normalization import GroupNorm
from calotype.nn.resample import Resample


class ResnetBlock2D(nn.Module):
    """Twice normalise, activate, convolve; add the time in between and the input at the end.

    Args:
        in_channels, out_channels: where they differ, or with `shortcut=True`, a 1x1 convolution carries the input over.
        time_channels: the width of the time embedding, or `None` for a block without time (autoencoders).
        groups, out_groups: groups of the first and of the second normalisation, by default the same.
        time_scale_shift: the time scales and shifts the second normalisation instead of being added before it.
        output_scale: what the sum is divided by.
        resample: halve or double the map inside the block; `smooth` as in `Resample`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_channels: int | None,
        *,
        groups: int = 32,
        out_groups: int | None = None,
        eps: float = 1e-6,
        act: str = "silu",
        dropout: float = 0.0,
        time_scale_shift: bool = False,
        output_scale: float = 1.0,
        shortcut: bool = False,
        resample: Literal["down", "up"] | None = None,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.act = ACTIVATIONS[act]
        self.dropout = dropout
        self.time_scale_shift = time_scale_shift
        self.output_scale = output_scale
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = (
            None if time_channels is None else nn.Linear(time_channels, out_channels * (1 + time_scale_shift))
        )
        self.norm2 = GroupNorm(out_groups or groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.resample = Resample(resample, smooth=smooth) if resample else None
        needs_shortcut = shortcut or in_channels != out_channels
        self.conv_shortcut = Conv2d(in_channels, out_channels, 1) if needs_shortcut else None

    def forward(self, x: Float[Tensor, "b c h w"], temb: Float[Tensor, "#b t"] | None) -> Float[Tensor, "b c2 h2 w2"]:
        """`temb` is the *activated* time embedding: it is the same for all blocks, so the network activates it once.
        Its batch may be 1, for a time that all items share."""
        h = activated(self.act, self.norm1(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = activated(self.act, self._timed(h, temb))
        if self.dropout and self.training:
            h = functional.dropout(h, self.dropout)
        h = self.conv2(h)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return self._sum(h, x)

    def _timed(self, h: Tensor, temb: Tensor | None) -> Tensor:
        """The first convolution and the second normalisation, told the time. One time for all joins the bias."""
        out: Tensor
        if self.time_emb_proj is None:
            out = self.norm2(self.conv1(h))
            return out
        time = self.time_emb_proj(temb)
        if self.time_scale_shift:
            scale, shift = time.view(*time.shape, 1, 1).chunk(2, dim=1)
            out = self.norm2(self.conv1(h)) * (1 + scale) + shift
        elif len(time) == 1:
            out = self.norm2(self.conv1(h, time))
        else:
            out = self.norm2(self.conv1(h) + time.view(*time.shape, 1, 1))
        return out

    def _sum(self, h: Tensor, x: Tensor) -> Tensor:
        """`(x + h) / output_scale`; nothing else holds `h`."""
        both = added(h, x)
        return both if self.output_scale == 1 else both / self.output_scale
