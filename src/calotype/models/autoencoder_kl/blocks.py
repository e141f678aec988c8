"""The two halves of the network: from pixels to the moments of latents, and from latents to pixels."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.models.autoencoder_kl.config import AutoencoderKLConfig
from calotype.nn.attention import SpatialSelfAttention
from calotype.nn.inference import infers
from calotype.nn.normalization import GroupNorm
from calotype.nn.resample import Downsample2D, Upsample2D
from calotype.nn.resnet import ResnetBlock2D
from calotype.nn.strips import doubled_conv, in_strips, normed_conv

_EPS = 1e-6


class Resnet(ResnetBlock2D):
    """A residual block without time, whose large maps are worked on in strips."""

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, None, groups=config.norm_num_groups, eps=_EPS, act=config.act_fn)

    def forward(self, x: Float[Tensor, "b c h w"], temb: Tensor | None = None) -> Float[Tensor, "b c2 h w"]:
        """`temb` is there because other residual blocks take one."""
        if not in_strips(x):
            return super().forward(x, temb)
        h = normed_conv(x, self.norm1, self.act, self.conv1)
        carried = x.clone() if self.conv_shortcut is None else self.conv_shortcut(x)
        return normed_conv(h, self.norm2, self.act, self.conv2, added_to=carried)


class Upsample(Upsample2D):
    """A doubling, whose large maps are worked on in strips."""

    def forward(
        self, x: Float[Tensor, "b c h w"], temb: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c h2 w2"]:
        """`temb` and `size` are there because other doublings take them."""
        return doubled_conv(x, self.conv)


class Level(nn.Module):
    """Residual blocks of one width, then, except on the last level, a halving or a doubling.

    A network runs the layers one by one, so that no map is held on to that the next layer does not need; a level that
    something is hooked to is called as a whole.
    """

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, count: int) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * (count - 1)]
        self.resnets = nn.ModuleList(Resnet(config, width, out_channels) for width in widths)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for layer in self.layers():
            x = layer(x)
        return x

    def layers(self) -> Iterator[nn.Module]:
        """The layers in the order that they run in."""
        for part in (self.resnets, self.downsamplers, self.upsamplers):
            yield from part or ()

    @property
    def is_watched(self) -> bool:
        """Whether something is to happen when the level is called: a hook, or compiled code."""
        hooks = self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks
        return any(hooks) or self._compiled_call_impl is not None


class DownBlock(Level):
    """A level on the way from pixels to latents."""

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__(config, in_channels, out_channels, config.layers_per_block)
        if not last:
            self.downsamplers = nn.ModuleList([Downsample2D(out_channels, padding=0)])


class UpBlock(Level):
    """A level on the way from latents to pixels, with one residual block more."""

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__(config, in_channels, out_channels, config.layers_per_block + 1)
        if not last:
            self.upsamplers = nn.ModuleList([Upsample(out_channels)])


class MidBlock(nn.Module):
    """Residual block, attention, residual block, on the smallest map."""

    def __init__(self, config: AutoencoderKLConfig, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(config, channels, channels) for _ in range(2))
        self.attentions = None
        if config.mid_block_add_attention:
            self.attentions = nn.ModuleList([SpatialSelfAttention(channels, groups=config.norm_num_groups, eps=_EPS)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = self.resnets[0](x, None)
        if self.attentions is not None:
            x = self.attentions[0](x)
        out: Tensor = self.resnets[1](x, None)
        return out


def _layers(blocks: nn.ModuleList) -> Iterator[nn.Module]:
    """What to run, from the first to the last: the layers of all levels, and levels that are watched as they are."""
    for block in blocks:
        assert isinstance(block, Level)
        if block.is_watched:
            yield block
        else:
            yield from block.layers()


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
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Float[Tensor, "b rgb h w"]) -> Float[Tensor, "b c2 h8 w8"]:
        x = self.conv_in(pixels_last(pixels))
        for layer in _layers(self.down_blocks):
            x = layer(x)
        x = self.mid_block(x)
        moments: Tensor = normed_conv(x, self.conv_norm_out, functional.silu, self.conv_out)
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
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rgb h8 w8"]:
        x = self.mid_block(self.conv_in(pixels_last(latents)))
        for layer in _layers(self.up_blocks):
            x = layer(x)
        pixels: Tensor = normed_conv(x, self.conv_norm_out, functional.silu, self.conv_out)
        return pixels


def pixels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """`x` with the channels of a pixel side by side in memory, in inference on a processor: its convolutions of large
    maps then need no copy into a layout of their own."""
    fits = x.device.type == "cpu" and infers()
    return x.contiguous(memory_format=torch.channels_last) if fits else x
