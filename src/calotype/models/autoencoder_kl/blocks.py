"""The two halves of the network: from pixels to the moments of latents, and from latents to pixels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.models.autoencoder_kl.config import AutoencoderKLConfig
from calotype.nn.activations import activated
from calotype.nn.attention import SpatialSelfAttention
from calotype.nn.resample import Downsample2D, Upsample2D
from calotype.nn.resnet import ResnetBlock2D

_EPS = 1e-6


def _resnet(config: AutoencoderKLConfig, in_channels: int, out_channels: int) -> ResnetBlock2D:
    return ResnetBlock2D(in_channels, out_channels, None, groups=config.norm_num_groups, eps=_EPS, act=config.act_fn)


class DownBlock(nn.Module):
    """Residual blocks, then, except on the last level, a halving."""

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * (config.layers_per_block - 1)]
        self.resnets = nn.ModuleList(_resnet(config, width, out_channels) for width in widths)
        self.downsamplers = None if last else nn.ModuleList([Downsample2D(out_channels, padding=0)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for resnet in self.resnets:
            x = resnet(x, None)
        return x if self.downsamplers is None else self.downsamplers[0](x)


class UpBlock(nn.Module):
    """Residual blocks, one more than on the way down, then, except on the last level, a doubling."""

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * config.layers_per_block]
        self.resnets = nn.ModuleList(_resnet(config, width, out_channels) for width in widths)
        self.upsamplers = None if last else nn.ModuleList([Upsample2D(out_channels)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for resnet in self.resnets:
            x = resnet(x, None)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class MidBlock(nn.Module):
    """Residual block, attention, residual block, on the smallest map."""

    def __init__(self, config: AutoencoderKLConfig, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(config, channels, channels) for _ in range(2))
        self.attentions = None
        if config.mid_block_add_attention:
            self.attentions = nn.ModuleList([SpatialSelfAttention(channels, groups=config.norm_num_groups, eps=_EPS)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = self.resnets[0](x, None)
        if self.attentions is not None:
            x = self.attentions[0](x)
        out: Tensor = self.resnets[1](x, None)
        return out


class Encoder(nn.Module):
    """Pixels to the mean and the log-variance of latents, one half of the channels each."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(config, widths[max(level - 1, 0)], width, last=level == last)
            for level, width in enumerate(widths)
        )
        self.mid_block = MidBlock(config, widths[-1])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Float[Tensor, "b rgb h w"]) -> Float[Tensor, "b c2 h8 w8"]:
        x = self.conv_in(pixels_last(pixels))
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        moments: Tensor = self.conv_out(activated(functional.silu, self.conv_norm_out(x)))
        return moments


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(config, widths[0])
        self.up_blocks = nn.ModuleList(
            UpBlock(config, widths[max(level - 1, 0)], width, last=level == len(widths) - 1)
            for level, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rgb h8 w8"]:
        x = self.mid_block(self.conv_in(pixels_last(latents)))
        for block in self.up_blocks:
            x = block(x)
        pixels: Tensor = self.conv_out(activated(functional.silu, self.conv_norm_out(x)))
        return pixels


def pixels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """`x` with the channels of a pixel side by side in memory, on a processor: its convolutions of large maps then
    need no copy into a layout of their own."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
