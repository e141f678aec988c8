"""A convolutional variational autoencoder without normalization layers.

The latent is a diagonal Gaussian (Kingma and Welling, "Auto-Encoding Variational Bayes", 2014); its mean, scaled to
zero mean and unit variance per channel, is what a diffusion model sees (Rombach et al., "High-Resolution Image
Synthesis with Latent Diffusion Models", 2022, section 3.1).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.errors import InputError
from calotype.models.mini_autoencoder.config import MiniAutoencoderConfig
from calotype.nn.network import Network


class Moments(NamedTuple):
    """The Gaussian that a picture is encoded to, before scaling: [b, c, h/8, w/8] each."""

    mean: Tensor
    log_variance: Tensor


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), starting as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.silu(self.conv1(F.silu(x))))
        return x + change


class Encoder(nn.Module):
    """Picture to the two moments of its latents. Space becomes depth before every level."""

    def __init__(self, config: MiniAutoencoderConfig) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        channels = 3
        for width in config.block_out_channels:
            levels += [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1)]
            levels += [ResidualBlock(width) for _ in range(config.encoder_layers_per_block)]
            channels = width
        self.levels = nn.Sequential(*levels)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        moments: Tensor = self.conv_out(F.silu(self.levels(images)))
        return moments


class Decoder(nn.Module):
    """Latents to a picture. Depth becomes space after every level."""

    def __init__(self, config: MiniAutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        after = (*widths[1:], config.detail_channels)
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        levels: list[nn.Module] = []
        for width, narrower in zip(widths, after, strict=True):
            levels += [ResidualBlock(width) for _ in range(config.decoder_layers_per_block)]
            levels += [nn.Conv2d(width, 4 * narrower, 3, padding=1), nn.PixelShuffle(2)]
        self.levels = nn.Sequential(*levels)
        self.detail = ResidualBlock(config.detail_channels)
        self.conv_out = nn.Conv2d(config.detail_channels, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.conv_out(F.silu(self.detail(self.levels(self.conv_in(latents)))))
        return images


class MiniAutoencoderKL(Network):
    """Pictures in -1..1 to latents of zero mean and unit variance per channel, and back."""

    Config = MiniAutoencoderConfig
    config: MiniAutoencoderConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode_moments(self, images: Float[Tensor, "b 3 h w"]) -> Moments:
        """The Gaussian of every picture's latents, before scaling; what training needs.

        Raises:
            InputError: a side is not a multiple of `config.downscale` pixels.
        """
        for name, side in (("height", images.shape[-2]), ("width", images.shape[-1])):
            multiple = self.config.downscale
            if side % multiple:
                nearest = max(multiple, round(side / multiple) * multiple)
                raise InputError(f"{name} must be a multiple of {multiple}, got {side}; nearest is {nearest}")
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return Moments(mean, log_variance.clamp(-20.0, 10.0))

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Pictures in -1..1 to the mean of their latents, scaled to unit variance, at 1/`downscale` of the size."""
        mean, std = self._statistics(images)
        return (self.encode_moments(images).mean - mean) / std

    def decode(self, latents: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        """Scaled latents to pictures, nominally in -1..1 (not clamped)."""
        mean, std = self._statistics(latents)
        images: Tensor = self.decoder(latents * std + mean)
        return images

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Encode and decode."""
        return self.decode(self.encode(images))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.latent_channels
        mean = like.new_tensor(self.config.latents_mean or (0.0,) * channels)
        std = like.new_tensor(self.config.latents_std or (1.0,) * channels)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)
