"""The levels of the score-SDE networks (NCSN++), which also carry an image down and build one up, level by level."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.models.unet_2d.blocks import resnet_settings, up_widths
from calotype.models.unet_2d.config import UNet2DConfig
from calotype.nn.attention import SpatialSelfAttention
from calotype.nn.resample import Resample
from calotype.nn.resnet import ResnetBlock2D

_SCALE = math.sqrt(2.0)


def _groups(channels: int) -> int:
    return min(channels // 4, 32)


def _resnet(config: UNet2DConfig, in_channels: int, out_channels: int, **settings: Any) -> ResnetBlock2D:
    shared = {"groups": _groups(in_channels), "out_groups": _groups(out_channels), **resnet_settings(config)}
    return ResnetBlock2D(in_channels, out_channels, config.time_channels, output_scale=_SCALE, **(shared | settings))


def _attention(config: UNet2DConfig, channels: int) -> SpatialSelfAttention:
    return SpatialSelfAttention(
        channels, head_channels=config.attention_head_dim, groups=32, eps=config.norm_eps, output_scale=_SCALE
    )


class SkipDownBlock2D(nn.Module):
    """Residual blocks and, except on the last level, a halving of the map and of the image, which is added to it."""

    def __init__(self, config: UNet2DConfig, kind: str, in_channels: int, out_channels: int, last: bool) -> None:
        super().__init__()
        count = config.layers_per_block
        widths = [in_channels, *[out_channels] * (count - 1)]
        self.resnets = nn.ModuleList(_resnet(config, width, out_channels) for width in widths)
        self.attentions: nn.ModuleList | None = None
        if kind == "AttnSkipDownBlock2D":
            self.attentions = nn.ModuleList(_attention(config, out_channels) for _ in range(count))
        self.resnet_down: ResnetBlock2D | None = None
        if not last:
            self.resnet_down = _resnet(config, out_channels, out_channels, shortcut=True, resample="down", smooth=True)
            self.image_down = Resample("down", smooth=True)
            self.skip_conv = nn.Conv2d(config.in_channels, out_channels, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], temb: Tensor, image: Float[Tensor, "b 3 h w"]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """The result, every intermediate map for the way up, and the image at the size of the result."""
        skips = []
        for index, resnet in enumerate(self.resnets):
            x = resnet(x, temb)
            if self.attentions is not None:
                x = self.attentions[index](x)
            skips.append(x)
        if self.resnet_down is not None:
            image = self.image_down(image)
            x = self.skip_conv(image) + self.resnet_down(x, temb)
            skips.append(x)
        return x, skips, image


class SkipUpBlock2D(nn.Module):
    """Residual blocks that each take in one map from the way down, one attention in an `Attn` block; then, except on
    the last level, a contribution to the image and a doubling."""

    def __init__(
        self, config: UNet2DConfig, kind: str, in_channels: int, out_channels: int, skip_channels: int, last: bool
    ) -> None:
        super().__init__()
        widths = up_widths(config.layers_per_block + 1, in_channels, out_channels, skip_channels)
        attends = kind == "AttnSkipUpBlock2D"
        self.resnets = nn.ModuleList(
            _resnet(config, sum(pair), out_channels, groups=min(pair[0] + pair[1] // 4, 32))
            if attends  # the published networks count the groups of these blocks from the wider side alone
            else _resnet(config, sum(pair), out_channels)
            for pair in widths
        )
        self.attentions: nn.ModuleList | None = None
        if attends:
            self.attentions = nn.ModuleList([_attention(config, out_channels)])
        self.image_up = Resample("up", smooth=True)
        self.resnet_up: ResnetBlock2D | None = None
        if not last:
            self.resnet_up = _resnet(config, out_channels, out_channels, shortcut=True, resample="up", smooth=True)
            self.skip_norm = nn.GroupNorm(_groups(out_channels), out_channels, eps=config.norm_eps)
            self.skip_conv = nn.Conv2d(out_channels, config.out_channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c h w"], temb: Tensor, skips: list[Tensor], image: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The result and the image, which is at the size of this level. Takes its maps off the end of `skips`."""
        for resnet in self.resnets:
            x = resnet(torch.cat((x, skips.pop()), dim=1), temb)
        if self.attentions is not None:
            x = self.attentions[0](x)
        if image is not None:
            image = self.image_up(image)
        if self.resnet_up is not None:
            contribution = self.skip_conv(functional.silu(self.skip_norm(x)))
            image = contribution if image is None else image + contribution
            x = self.resnet_up(x, temb)
        return x, image
