"""The autoencoder of Qwen-Image, which is Wan 2.1's: pictures or videos to latents and back."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.models.autoencoder_kl_qwen_image.blocks import CausalConv3d, Past
from calotype.models.autoencoder_kl_qwen_image.coders import Decoder, Encoder
from calotype.models.autoencoder_kl_qwen_image.config import AutoencoderKLQwenImageConfig
from calotype.nn.distribution import DiagonalGaussian
from calotype.nn.network import Network


class QwenAutoencoderOutput(NamedTuple):
    """What `encode` gives: the distribution of the latents."""

    latent_dist: DiagonalGaussian


class QwenDecoderOutput(NamedTuple):
    """What `decode` gives: pixels in [-1, 1]."""

    sample: Float[Tensor, "b c *size"]


class AutoencoderKLQwenImage(Network):
    """The autoencoder of "Wan: Open and Advanced Large-Scale Video Generative Models" (2025), section 4.1, with the
    decoder of "Qwen-Image Technical Report" (2025), section 2.3. Keywords: the fields of
    `AutoencoderKLQwenImageConfig`.

    Pictures are `[b, c, h, w]`, or videos `[b, c, frames, h, w]` of 1, 5, 9, ... frames; the result is what the input
    was. A picture costs no more than in a network without time.
    """

    Config = AutoencoderKLQwenImageConfig
    config: AutoencoderKLQwenImageConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        channels = self.config.z_dim
        self.encoder = Encoder(self.config)
        self.quant_conv = CausalConv3d(2 * channels, 2 * channels, (1, 1, 1))
        self.post_quant_conv = CausalConv3d(channels, channels, (1, 1, 1))
        self.decoder = Decoder(self.config)

    def encode(
        self, x: Float[Tensor, "b c *size"], return_dict: bool = True
    ) -> QwenAutoencoderOutput | tuple[DiagonalGaussian]:
        """The distribution of the latents of pictures or videos in [-1, 1], before any scaling.

        Args:
            x: height and width must be multiples of `config.downscale`; frames one more than a multiple of
                `config.frames_per_latent`.
            return_dict: `False` for a plain tuple.

        Raises:
            InputError: the channels, a side or the number of frames do not fit.
        """
        self._check(x, "pictures", self.config.input_channels, self.config.downscale)
        frames, step = 1 if x.ndim == 4 else x.shape[2], self.config.frames_per_latent
        if frames % step != 1 % step:
            near = max(round((frames - 1) / step), 0) * step + 1
            raise InputError(f"frames must be 1 more than a multiple of {step}, got {frames}; nearest is {near}")
        moments = self.quant_conv(_in_pieces(self.encoder, x, step))
        distribution = DiagonalGaussian.of(moments)
        return QwenAutoencoderOutput(distribution) if return_dict else (distribution,)

    def decode(
        self,
        z: Float[Tensor, "b c *size"],
        return_dict: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> QwenDecoderOutput | tuple[Tensor]:
        """The pictures or videos of latents, in [-1, 1].

        Args:
            z: latents at the network's own scale: a denoiser's times `config.latents_std`, plus `config.latents_mean`.
            return_dict: `False` for a plain tuple.
            generator: not used, as nothing is drawn; there because other decoders take one.

        Raises:
            InputError: the channels do not fit.
        """
        self._check(z, "latents", self.config.z_dim, 1)
        pixels = _in_pieces(self.decoder, self.post_quant_conv(z), 1).clamp(-1.0, 1.0)
        return QwenDecoderOutput(pixels) if return_dict else (pixels,)

    def forward(
        self,
        sample: Float[Tensor, "b c *size"],
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> QwenDecoderOutput | tuple[Tensor]:
        """Pictures to latents and back: to their likeliest latents or, with `sample_posterior`, to drawn ones."""
        (distribution,) = self.encode(sample)
        return self.decode(distribution.sample(generator) if sample_posterior else distribution.mode(), return_dict)

    def _check(self, x: Tensor, what: str, channels: int, factor: int) -> None:
        if x.ndim not in (4, 5) or x.shape[1] != channels:
            raise InputError(
                f"{what} must be [batch, {channels}, height, width] or [batch, {channels}, frames, height, width], got "
                f"{list(x.shape)}"
            )
        height, width = x.shape[-2:]
        if height % factor or width % factor or not height or not width:
            near = [max(round(side / factor), 1) * factor for side in (height, width)]
            raise InputError(
                f"height and width must be multiples of {factor}, got {height}x{width}; nearest is {near[0]}x{near[1]}"
            )


def _in_pieces(network: Callable[[Tensor, Past | None], Tensor], x: Tensor, step: int) -> Tensor:
    """`network` over the first frame, then over `step` frames at a time, each piece told what was before it."""
    if x.ndim == 4:
        return network(x, None)
    if x.shape[2] == 1:
        return network(x[:, :, 0], None).unsqueeze(2)
    past: Past = {}
    starts = [0, *range(1, x.shape[2], step), x.shape[2]]
    return torch.cat([network(x[:, :, start:end], past) for start, end in pairwise(starts)], dim=2)
