"""The levels of the network: plain blocks, and the middle."""

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.models.unet_2d.config import UNet2DConfig
from calotype.nn.attention import SpatialSelfAttention
from calotype.nn.resample import Downsample2D, Upsample2D
from calotype.nn.resnet import ResnetBlock2D


def resnet_settings(config: UNet2DConfig) -> dict[str, Any]:
    """The settings that all residual blocks of a network share."""
    return {
        "eps": config.norm_eps,
        "act": config.act_fn,
        "dropout": config.dropout,
        "time_scale_shift": config.resnet_time_scale_shift == "scale_shift",
    }


def _resnet(config: UNet2DConfig, in_channels: int, out_channels: int, **settings: Any) -> ResnetBlock2D:
    settings = {"groups": config.norm_num_groups, **resnet_settings(config), **settings}
    return ResnetBlock2D(in_channels, out_channels, config.time_channels, **settings)


def _attentions(config: UNet2DConfig, channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(
        SpatialSelfAttention(
            channels, head_channels=config.attention_head_dim, groups=config.norm_num_groups, eps=config.norm_eps
        )
        for _ in range(count)
    )


class DownBlock2D(nn.Module):
    """Residual blocks, each followed by attention in an `Attn` block; then, except on the last level, a halving."""

    def __init__(self, config: UNet2DConfig, kind: str, in_channels: int, out_channels: int, last: bool) -> None:
        super().__init__()
        count = config.layers_per_block
        attends = kind == "AttnDownBlock2D"
        widths = [in_channels, *[out_channels] * (count - 1)]
        self.resnets = nn.ModuleList(_resnet(config, width, out_channels) for width in widths)
        self.attentions = _attentions(config, out_channels, count) if attends else None
        resnet_halves = kind == "ResnetDownsampleBlock2D" or (attends and config.downsample_type == "resnet")
        self.downsamplers: nn.ModuleList | None = None
        if not last:
            self.downsamplers = nn.ModuleList(
                [
                    _resnet(config, out_channels, out_channels, resample="down")
                    if resnet_halves
                    else Downsample2D(out_channels, padding=config.downsample_padding)
                ]
            )

    def forward(self, x: Float[Tensor, "b c h w"], temb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The result, and every intermediate map for the way up."""
        skips = []
        for resnet, attention in zip(self.resnets, _or_none(self.attentions), strict=False):
            x = resnet(x, temb)
            if attention is not None:
                x = attention(x)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x, temb)
            skips.append(x)
        return x, skips


class UpBlock2D(nn.Module):
    """Residual blocks that each take in one map from the way down; then, except on the last level, a doubling."""

    def __init__(
        self, config: UNet2DConfig, kind: str, in_channels: int, out_channels: int, skip_channels: int, last: bool
    ) -> None:
        super().__init__()
        count = config.layers_per_block + 1
        attends = kind == "AttnUpBlock2D"
        widths = up_widths(count, in_channels, out_channels, skip_channels)
        self.resnets = nn.ModuleList(_resnet(config, sum(pair), out_channels) for pair in widths)
        self.attentions = _attentions(config, out_channels, count) if attends else None
        resnet_doubles = kind == "ResnetUpsampleBlock2D" or (attends and config.upsample_type == "resnet")
        self.upsamplers: nn.ModuleList | None = None
        if not last:
            self.upsamplers = nn.ModuleList(
                [
                    _resnet(config, out_channels, out_channels, resample="up")
                    if resnet_doubles
                    else Upsample2D(out_channels)
                ]
            )

    def forward(self, x: Float[Tensor, "b c h w"], temb: Tensor, skips: list[Tensor]) -> Tensor:
        """Takes its maps off the end of `skips`."""
        for resnet, attention in zip(self.resnets, _or_none(self.attentions), strict=False):
            x = resnet(torch.cat((x, skips.pop()), dim=1), temb)
            if attention is not None:
                x = attention(x)
        return x if self.upsamplers is None else self.upsamplers[0](x, temb)


class MidBlock2D(nn.Module):
    """Residual block, attention, residual block, on the smallest map."""

    def __init__(self, config: UNet2DConfig, channels: int) -> None:
        super().__init__()
        groups = config.norm_num_groups or min(channels // 4, 32)
        scale = config.mid_block_scale_factor
        shifts = config.resnet_time_scale_shift == "scale_shift"
        self.resnets = nn.ModuleList(
            _resnet(config, channels, channels, groups=groups, output_scale=scale) for _ in range(2)
        )
        self.attentions = None
        if config.add_attention:
            attention = SpatialSelfAttention(
                channels,
                head_channels=config.attention_head_dim,
                groups=config.attn_norm_num_groups or (None if shifts else groups),
                eps=config.norm_eps,
                output_scale=scale,
            )
            self.attentions = nn.ModuleList([attention])

    def forward(self, x: Float[Tensor, "b c h w"], temb: Tensor) -> Float[Tensor, "b c h w"]:
        x = self.resnets[0](x, temb)
        if self.attentions is not None:
            x = self.attentions[0](x)
        out: Tensor = self.resnets[1](x, temb)
        return out


def up_widths(count: int, in_channels: int, out_channels: int, skip_channels: int) -> list[tuple[int, int]]:
    """The two input widths of each of an up block's residual blocks: of what comes from below and of the map from the
    way down, the last of which is from the level above."""
    below = [in_channels, *[out_channels] * (count - 1)]
    beside = [*[out_channels] * (count - 1), skip_channels]
    return list(zip(below, beside, strict=True))


def _or_none(modules: nn.ModuleList | None) -> Iterable[nn.Module | None]:
    return repeat(None) if modules is None else modules
