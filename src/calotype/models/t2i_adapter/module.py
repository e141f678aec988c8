"""The small network that steers a text-conditioned denoiser by a picture."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from calotype.errors import InputError
from calotype.models.t2i_adapter.config import T2IAdapterConfig
from calotype.nn.network import Network


class Residual(nn.Module):
    """Two convolutions with a rectifier between, added to the map."""

    def __init__(self, channels: int, *, light: bool) -> None:
        super().__init__()
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, 3, padding=1) if light else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h: Tensor = self.block2(relu(self.block1(x)))
        return x + h


class Level(nn.Module):
    """One map: halved first where `halves`, brought to its width, and refined.

    A light level is refined at a quarter of its width.
    """

    def __init__(self, in_channels: int, channels: int, count: int, *, halves: bool, light: bool) -> None:
        super().__init__()
        inner = channels // 4 if light else channels
        self.downsample = nn.AvgPool2d(2, ceil_mode=True) if halves else None
        self.in_conv = nn.Conv2d(in_channels, inner, 1) if light or in_channels != channels else None
        self.resnets = nn.ModuleList(Residual(inner, light=light) for _ in range(count))
        self.out_conv = nn.Conv2d(inner, channels, 1) if light else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for layer in (self.downsample, self.in_conv, *self.resnets, self.out_conv):
            if layer is not None:
                x = layer(x)
        return x


class Levels(nn.Module):
    """All maps, from a picture whose blocks of pixels have become channels."""

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        light = config.adapter_type == "light_adapter"
        pixels = config.in_channels * config.downscale_factor**2
        self.unshuffle = nn.PixelUnshuffle(config.downscale_factor)
        self.conv_in = None if light else nn.Conv2d(pixels, config.channels[0], 3, padding=1)
        self.body = nn.ModuleList(
            Level(before, width, config.num_res_blocks, halves=halves, light=light)
            for before, width, halves in config.blocks
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        x = self.unshuffle(x)
        x = x if self.conv_in is None else self.conv_in(x)
        maps = []
        for level in self.body:
            x = level(x)
            maps.append(x)
        return tuple(maps)


class T2IAdapter(Network):
    """Maps of a picture for every level of a denoiser's way down. Source: Mou et al., "T2I-Adapter: Learning Adapters
    to Dig out More Controllable Ability for Text-to-Image Diffusion Models", 2023. Keywords: the fields of
    `T2IAdapterConfig`."""

    Config = T2IAdapterConfig
    config: T2IAdapterConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.adapter = Levels(self.config)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        """The maps of pictures in [0, 1], for `down_intrablock_additional_residuals` of the denoiser.

        Raises:
            InputError: the pictures have another number of channels, or sides that are no multiple of
                `config.downscale_factor`.
        """
        step = self.config.downscale_factor
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or x.shape[2] % step or x.shape[3] % step:
            raise InputError(
                f"x must be [batch, {self.config.in_channels}, height, width] with sides that are multiples of {step}, "
                f"got {list(x.shape)}"
            )
        maps: tuple[Tensor, ...] = self.adapter(x)
        return maps
