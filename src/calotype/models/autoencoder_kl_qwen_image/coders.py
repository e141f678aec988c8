"""The two halves of the network: from pixels to the moments of latents, and from latents to pixels."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.models.autoencoder_kl_qwen_image.blocks import (
    CausalConv3d,
    ChannelNorm,
    Downsample,
    MidBlock,
    Past,
    Resnet,
    Upsample,
)
from calotype.models.autoencoder_kl_qwen_image.config import AutoencoderKLQwenImageConfig
from calotype.nn.activations import activated


class Encoder(nn.Module):
    """From pixels to moments. The layers of all levels are one list, as published."""

    def __init__(self, config: AutoencoderKLQwenImageConfig) -> None:
        super().__init__()
        widths = [config.base_dim * multiple for multiple in (1, *config.dim_mult)]
        self.conv_in = CausalConv3d(config.input_channels, widths[0], (3, 3, 3))
        self.down_blocks = nn.ModuleList()
        for level, (width, wider) in enumerate(pairwise(widths)):
            for index in range(config.num_res_blocks):
                self.down_blocks.append(Resnet(wider if index else width, wider, config.dropout))
            if level < len(config.temperal_downsample):
                self.down_blocks.append(Downsample(wider, time=config.temperal_downsample[level]))
        self.mid_block = MidBlock(widths[-1], config.dropout)
        self.norm_out = ChannelNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.z_dim, (3, 3, 3))

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c2 *size2"]:
        x = self.conv_in(x, past)
        for layer in self.down_blocks:
            x = layer(x, past)
        x = self.norm_out(self.mid_block(x, past))
        moments: Tensor = self.conv_out(activated(functional.silu, x), past)
        return moments


class UpBlock(nn.Module):
    """Residual blocks of one width, then, except on the last level, a doubling."""

    def __init__(
        self, config: AutoencoderKLQwenImageConfig, in_channels: int, out_channels: int, time: bool | None
    ) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * config.num_res_blocks]
        self.resnets = nn.ModuleList(Resnet(width, out_channels, config.dropout) for width in widths)
        self.upsamplers = None if time is None else nn.ModuleList([Upsample(out_channels, time=time)])

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c2 *size2"]:
        for resnet in self.resnets:
            x = resnet(x, past)
        return x if self.upsamplers is None else self.upsamplers[0](x, past)


class Decoder(nn.Module):
    """From latents to pixels."""

    def __init__(self, config: AutoencoderKLQwenImageConfig) -> None:
        super().__init__()
        widths = [config.base_dim * multiple for multiple in config.dim_mult[::-1]]
        self.conv_in = CausalConv3d(config.z_dim, widths[0], (3, 3, 3))
        self.mid_block = MidBlock(widths[0], config.dropout)
        self.up_blocks = nn.ModuleList()
        doublings = [*config.temperal_downsample[::-1], None]
        before = widths[0]
        for width, time in zip(widths, doublings, strict=True):
            self.up_blocks.append(UpBlock(config, before, width, time))
            before = width // 2
        self.norm_out = ChannelNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], config.input_channels, (3, 3, 3))

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c2 *size2"]:
        x = self.mid_block(self.conv_in(x, past), past)
        for block in self.up_blocks:
            x = block(x, past)
        pixels: Tensor = self.conv_out(activated(functional.silu, self.norm_out(x)), past)
        return pixels
