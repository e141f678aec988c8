"""The tiny autoencoder that stands in for a large one: previews of latents at almost no cost."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError
from calotype.models.autoencoder_tiny.config import AutoencoderTinyConfig
from calotype.nn.activations import ACTIVATIONS, activated
from calotype.nn.inference import infers
from calotype.nn.network import Network

_BOUND = 3.0


class AutoencoderTinyOutput(NamedTuple):
    """What `encode` gives: latents, at the scale of denoisers."""

    latents: Float[Tensor, "b c h w"]


class TinyDecoderOutput(NamedTuple):
    """What `decode` gives: pixels, about in [-1, 1]."""

    sample: Float[Tensor, "b c h w"]


class Activation(nn.Module):
    """An activation that has a place in a list of layers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.act, x)


class Doubling(nn.Module):
    """Height and width doubled by repeating pixels."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Block(nn.Module):
    """Three convolutions with activations between, added to the input; negative sums become 0."""

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(channels, channels), Activation(act), _conv(channels, channels), Activation(act),
            _conv(channels, channels),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h: Tensor = self.conv(x)
        return h.add_(x).relu_() if infers() else functional.relu(x + h)


class Layers(nn.Module):
    """The layers of one half, in a row, under the name that files give them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        out: Tensor = self.layers(x)
        return out


class AutoencoderTiny(Network):
    """The "TAESD" autoencoder: a few convolutions that were trained to give what a large autoencoder gives.

    Its latents are those that denoisers work on, so that `config.scaling_factor` is 1 and previews need no scaling.
    Keywords: the fields of `AutoencoderTinyConfig`.
    """

    Config = AutoencoderTinyConfig
    config: AutoencoderTinyConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.encoder = _encoder(self.config)
        self.decoder = _decoder(self.config)

    def encode(self, x: Float[Tensor, "b c h w"], return_dict: bool = True) -> AutoencoderTinyOutput | tuple[Tensor]:
        """The latents of pictures in [-1, 1], whose sides are multiples of `config.downscale`.

        Raises:
            InputError: the channels or a side do not fit.
        """
        self._check(x, "pictures", self.config.in_channels, self.config.downscale)
        latents = self.encoder((x + 1) / 2)
        return AutoencoderTinyOutput(latents) if return_dict else (latents,)

    def decode(
        self, x: Float[Tensor, "b c h w"], generator: Any = None, return_dict: bool = True
    ) -> TinyDecoderOutput | tuple[Tensor]:
        """The pictures of latents, about in [-1, 1]. `generator` is not used, as nothing is drawn.

        Raises:
            InputError: the channels do not fit.
        """
        self._check(x, "latents", self.config.latent_channels, 1)
        pixels = self.decoder(torch.tanh(x / _BOUND) * _BOUND) * 2 - 1
        return TinyDecoderOutput(pixels) if return_dict else (pixels,)

    def forward(self, sample: Float[Tensor, "b c h w"], return_dict: bool = True) -> TinyDecoderOutput | tuple[Tensor]:
        """Pictures to latents and back, the latents rounded to 8 bits on the way, as in a picture of them."""
        (latents,) = self.encode(sample)
        levels = self.scale_latents(latents).mul(255).round().div(255)
        return self.decode(self.unscale_latents(levels), return_dict=return_dict)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """Latents as values in [0, 1], to write as a picture."""
        return (latents / (2 * self.config.latent_magnitude) + self.config.latent_shift).clamp(0, 1)

    def unscale_latents(self, values: Tensor) -> Tensor:
        """The latents that values in [0, 1] stand for."""
        return (values - self.config.latent_shift) * (2 * self.config.latent_magnitude)

    def _check(self, x: Tensor, what: str, channels: int, factor: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            raise InputError(f"{what} must be [batch, {channels}, height, width], got {list(x.shape)}")
        height, width = x.shape[2:]
        if height % factor or width % factor or not height or not width:
            near = [max(round(side / factor), 1) * factor for side in (height, width)]
            raise InputError(
                f"height and width must be multiples of {factor}, got {height}x{width}; nearest is {near[0]}x{near[1]}"
            )


def _conv(in_channels: int, out_channels: int, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, **settings)


def _encoder(config: AutoencoderTinyConfig) -> Layers:
    width = config.encoder_block_out_channels[0]
    layers: list[nn.Module] = []
    for level, count in enumerate(config.num_encoder_blocks):
        layers.append(_conv(width, width, stride=2, bias=False) if level else _conv(config.in_channels, width))
        layers += [Block(width, config.act_fn) for _ in range(count)]
    return Layers([*layers, _conv(width, config.latent_channels)])


def _decoder(config: AutoencoderTinyConfig) -> Layers:
    width, last = config.decoder_block_out_channels[0], len(config.num_decoder_blocks) - 1
    layers: list[nn.Module] = [_conv(config.latent_channels, width), Activation(config.act_fn)]
    for level, count in enumerate(config.num_decoder_blocks):
        layers += [Block(width, config.act_fn) for _ in range(count)]
        if level < last:
            layers += [Doubling(), _conv(width, width, bias=False)]
    return Layers([*layers, _conv(width, config.out_channels)])
