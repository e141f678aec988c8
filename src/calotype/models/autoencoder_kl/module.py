"""The autoencoder of Stable Diffusion 1, 2, 3 and XL and of FLUX.1: pictures to latents and back."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.errors import InputError
from calotype.models.autoencoder_kl.blocks import Decoder, Encoder
from calotype.models.autoencoder_kl.config import AutoencoderKLConfig
from calotype.models.autoencoder_kl.distribution import DiagonalGaussian
from calotype.nn.keys import OLDER_ATTENTION
from calotype.nn.network import Network


class AutoencoderKLOutput(NamedTuple):
    """What `encode` gives: the distribution of the latents."""

    latent_dist: DiagonalGaussian


class DecoderOutput(NamedTuple):
    """What `decode` gives: pixels, about in [-1, 1]."""

    sample: Float[Tensor, "b c h w"]


class AutoencoderKL(Network):
    """The autoencoder of "High-Resolution Image Synthesis with Latent Diffusion Models", trained with a small
    Kullback-Leibler penalty. Keywords: the fields of `AutoencoderKLConfig`."""

    Config = AutoencoderKLConfig
    config: AutoencoderKLConfig
    renames = OLDER_ATTENTION
    map_layouts = (("cpu", "channels last, in which convolutions of large maps need no copy"),)

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        channels = self.config.latent_channels
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if self.config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if self.config.use_post_quant_conv else None

    def encode(
        self, x: Float[Tensor, "b c h w"], return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussian]:
        """The distribution of the latents of pictures in [-1, 1], before any scaling.

        Args:
            x: pictures whose height and width are multiples of `config.downscale`.
            return_dict: `False` for a plain tuple.

        Raises:
            InputError: the channels or a side do not fit.
        """
        self._check(x, "pictures", self.config.in_channels, self.config.downscale)
        moments = self.encoder(x)
        distribution = DiagonalGaussian.of(moments if self.quant_conv is None else self.quant_conv(moments))
        return AutoencoderKLOutput(distribution) if return_dict else (distribution,)

    def decode(
        self,
        z: Float[Tensor, "b c h w"],
        return_dict: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """The pictures of latents, about in [-1, 1].

        Args:
            z: latents at the network's own scale: a denoiser's divided by `scaling_factor`, with the shift added.
            return_dict: `False` for a plain tuple.
            generator: not used, as nothing is drawn; there because other decoders take one.

        Raises:
            InputError: the channels do not fit.
        """
        self._check(z, "latents", self.config.latent_channels, 1)
        pixels = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z)).contiguous()
        return DecoderOutput(pixels) if return_dict else (pixels,)

    def forward(
        self,
        sample: Float[Tensor, "b c h w"],
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Pictures to latents and back: to their likeliest latents or, with `sample_posterior`, to drawn ones."""
        (distribution,) = self.encode(sample)
        return self.decode(distribution.sample(generator) if sample_posterior else distribution.mode(), return_dict)

    def _check(self, x: Tensor, what: str, channels: int, factor: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            raise InputError(f"{what} must be [batch, {channels}, height, width], got {list(x.shape)}")
        height, width = x.shape[2:]
        if height % factor or width % factor or not height or not width:
            near = [max(round(side / factor), 1) * factor for side in (height, width)]
            raise InputError(
                f"height and width must be multiples of {factor}, got {height}x{width}; nearest is {near[0]}x{near[1]}"
            )
