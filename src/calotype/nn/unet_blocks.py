"""The levels of text-conditioned U-Nets, shared by the denoisers and by the networks that steer them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.errors import InputError
from calotype.nn.resample import Downsample2D, Upsample2D
from calotype.nn.resnet import ResnetBlock2D
from calotype.nn.transformer import SpatialTransformer, Text

WHOLE = slice(None)
"""All residual blocks of a level, and the change of size behind them."""


class BlockSettings(NamedTuple):
    """What all levels of a network share. `norm_groups` and `eps` are of the residual blocks' normalisations."""

    time_channels: int
    norm_groups: int = 32
    eps: float = 1e-5
    act: str = "silu"
    dropout: float = 0.0
    time_scale_shift: bool = False
    linear_projection: bool = False
    downsample_padding: int = 1

    def resnet(self, in_channels: int, out_channels: int, *, output_scale: float = 1.0) -> ResnetBlock2D:
        """One residual block of the network."""
        return ResnetBlock2D(
            in_channels,
            out_channels,
            self.time_channels,
            groups=self.norm_groups,
            eps=self.eps,
            act=self.act,
            dropout=self.dropout,
            time_scale_shift=self.time_scale_shift,
            output_scale=output_scale,
        )


class LevelAttention(NamedTuple):
    """The attention of one level: heads, the text's width, and the depth behind each of its residual blocks."""

    heads: int
    text_channels: int
    depths: tuple[int, ...]
    only_text: bool = False

    def transformers(self, settings: BlockSettings, channels: int) -> nn.ModuleList:
        """One transformer for each residual block."""
        return nn.ModuleList(
            SpatialTransformer(
                channels,
                self.heads,
                self.text_channels,
                depth=depth,
                groups=settings.norm_groups,
                linear=settings.linear_projection,
                only_text=self.only_text,
            )
            for depth in self.depths
        )


def steered(x: Float[Tensor, "b c h w"], residual: Tensor) -> Float[Tensor, "b c h w"]:
    """A map with what another network adds to it. Raises `InputError` for a map of another size or width."""
    behind = (1,) * (x.ndim - residual.ndim) + tuple(residual.shape)
    if len(behind) > x.ndim or any(side not in (1, wanted) for side, wanted in zip(behind, x.shape, strict=True)):
        raise InputError(
            f"what steers a map {list(x.shape)} must be of its shape, got {list(residual.shape)}; it is of a network "
            "for another denoiser, or of pictures of another size"
        )
    return x + residual


class TextDownBlock(nn.Module):
    """Residual blocks, each followed by a transformer where the level attends; then, except on the last level, a
    halving."""

    def __init__(
        self,
        settings: BlockSettings,
        in_channels: int,
        out_channels: int,
        *,
        count: int,
        attention: LevelAttention | None,
        last: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            settings.resnet(width, out_channels) for width in [in_channels, *[out_channels] * (count - 1)]
        )
        self.attentions = attention.transformers(settings, out_channels) if attention else None
        self.downsamplers: nn.ModuleList | None = None
        if not last:
            self.downsamplers = nn.ModuleList([Downsample2D(out_channels, padding=settings.downsample_padding)])

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        temb: Tensor,
        text: Text,
        residual: Tensor | None = None,
        part: slice = WHOLE,
    ) -> tuple[Tensor, list[Tensor]]:
        """The result, and every intermediate map for the way up.

        `residual` is an adapter's: it joins the last map of a level that attends before the halving, and the result of
        one that does not. `part`: the residual blocks that run; the halving follows the last one.
        """
        skips: list[Tensor] = []
        last = len(self.resnets) - 1
        transformers = self.attentions or [None] * (last + 1)
        for index, (resnet, transformer) in list(enumerate(zip(self.resnets, transformers, strict=True)))[part]:
            x = resnet(x, temb)
            if transformer is not None:
                x = transformer(x, text)
                if residual is not None and index == last:
                    x = steered(x, residual)
            skips.append(x)
        if part.stop is not None:
            return x, skips
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        if residual is not None and self.attentions is None:
            x = steered(x, residual)
            skips[-1] = x
        return x, skips


class TextUpBlock(nn.Module):
    """Residual blocks that each take in one map from the way down, each followed by a transformer where the level
    attends; then, except on the last level, a doubling.

    `widths` are the two input widths of each residual block: of what comes from below and of the map taken in.
    """

    def __init__(
        self,
        settings: BlockSettings,
        widths: Sequence[tuple[int, int]],
        out_channels: int,
        *,
        attention: LevelAttention | None,
        last: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(settings.resnet(sum(pair), out_channels) for pair in widths)
        self.attentions = attention.transformers(settings, out_channels) if attention else None
        self.upsamplers = None if last else nn.ModuleList([Upsample2D(out_channels)])

    def forward(
        self, x: Float[Tensor, "b c h w"], temb: Tensor, text: Text, skips: list[Tensor], part: slice = WHOLE
    ) -> Tensor:
        """Takes its maps off the end of `skips`; the doubling ends at the size of the map that is then last.

        `part`: the residual blocks that run; the doubling follows the last one.
        """
        transformers = self.attentions or [None] * len(self.resnets)
        for resnet, transformer in list(zip(self.resnets, transformers, strict=True))[part]:
            x = resnet(torch.cat((x, skips.pop()), dim=1), temb)
            if transformer is not None:
                x = transformer(x, text)
        if self.upsamplers is not None and part.stop is None:
            height, width = skips[-1].shape[2:]
            x = self.upsamplers[0](x, size=(height, width))
        return x


class TextMidBlock(nn.Module):
    """Residual block, transformer, residual block, on the smallest map; without `attention` one residual block."""

    def __init__(
        self, settings: BlockSettings, channels: int, *, attention: LevelAttention | None, output_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            settings.resnet(channels, channels, output_scale=output_scale) for _ in range(2 if attention else 1)
        )
        self.attentions = attention.transformers(settings, channels) if attention else None

    def forward(
        self, x: Float[Tensor, "b c h w"], temb: Tensor, text: Text, alone: bool = False
    ) -> Float[Tensor, "b c h w"]:
        """With `alone`, pixels do not look at one another: perturbed attention."""
        x = self.resnets[0](x, temb)
        if self.attentions is not None:
            x = self.resnets[1](self.attentions[0](x, text, alone), temb)
        return x
