"""Units around an autoencoder: noise of its latents' shape, pictures to latents and back, and masks for both."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NewType, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.errors import InputError
from calotype.graph.hints import ClassRef
from calotype.graph.unit import unit
from calotype.models.autoencoder_kl import AutoencoderKL
from calotype.pipelines.latents import CleanLatents, Latents, Noise, drawn_noise
from calotype.pipelines.pictures import Picture, fitted, to_array, to_mask, to_picture
from calotype.sampling import NoiseSource

if TYPE_CHECKING:
    from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
    from calotype.models.autoencoder_tiny import AutoencoderTiny

    AnyAutoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny | AutoencoderKLQwenImage
else:
    AutoencoderTiny = Annotated[Any, ClassRef("calotype:AutoencoderTiny")]
    AnyAutoencoder = Any  # which imports no network that a pipeline has not

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny
"""What makes latents of pictures and pictures of latents: the full network, or the small one for previews."""

Pixels = NewType("Pixels", Tensor)
"""A picture as an array [1, 3, h, w], about in [-1, 1]."""


class Size(NamedTuple):
    """A picture's size in pixels."""

    height: int
    width: int


@unit
def noise(seed: int, height: int, width: int, noise_source: NoiseSource | None, *, vae: Autoencoder) -> Noise:
    """Standard normal noise [1, c, h / 8, w / 8], drawn on the CPU so that every device gets the same."""
    side = vae.config.downscale
    shape = (1, vae.config.latent_channels, height // side, width // side)
    return drawn_noise(shape, seed, noise_source, vae.device)


def latents_of_all(
    image: Sequence[Picture],
    height: Sequence[int],
    width: Sequence[int],
    vae_tile: Sequence[int | None],
    *,
    vae: Autoencoder,
) -> CleanLatents:
    """Encode pictures of one size in one batch: [b, c, h / 8, w / 8]."""
    shown = torch.cat([to_array(fitted(*one)) for one in zip(image, height, width, strict=True)])
    return CleanLatents(scaled(encoded(shown, vae, vae_tile[0]), vae))


@unit(together=latents_of_all)
def image_latents(image: Picture, height: int, width: int, vae_tile: int | None, *, vae: Autoencoder) -> CleanLatents:
    """Encode the input picture, scaled and cropped to height x width: [1, c, h / 8, w / 8]."""
    return CleanLatents(scaled(encoded(to_array(fitted(image, height, width)), vae, vae_tile), vae))


@unit
def pixels(latents: Latents, vae_tile: int | None, *, vae: Autoencoder) -> Pixels:
    """Decode latents [1, c, h, w]: [1, 3, 8 h, 8 w], about in [-1, 1]."""
    return Pixels(decoded(unscaled(latents, vae), vae, vae_tile))


@unit
def pasted(pixels: Pixels, image: Picture, mask_pixels: Float[Tensor, "1 1 h w"]) -> Pixels:
    """What a mask keeps, from the input picture itself."""
    known = to_array(fitted(image, *pixels.shape[-2:])).to(pixels.device)
    return Pixels(torch.lerp(known, pixels, interpolate(mask_pixels, pixels.shape[-2:], mode="bilinear")))


@unit
def image(pixels: Pixels, image: Picture | None) -> Picture:
    """The finished picture, in the place of the one that was put in."""
    return to_picture(pixels)


def checked_size(height: int | None, width: int | None, default: Size, step: int) -> Size:
    """The sides that were asked for, or else those of `default`, which is the input picture's size.

    Raises:
        InputError: a side is no multiple of `step`, with the nearest that is.
    """
    asked = Size(height or default.height, width or default.width)
    for name, given, side in zip(Size._fields, (height, width), asked, strict=True):
        if side % step:
            near = max(round(side / step), 1) * step
            what = f"{name} must be a multiple of {step}, got {side}" if given else f"image is {side} pixels in {name}"
            raise InputError(
                f"{what}; nearest is {near}"
                if given
                else f"{what}, which is no multiple of {step}; give {name}={near} to scale and crop it"
            )
    return asked


def mask_of(mask: Picture, picture: Picture, size: Size) -> Float[Tensor, "1 1 h w"]:
    """A mask at the size of the picture to make. Raises `InputError` when it is not as large as what it masks."""
    refuse_other_size(mask, picture)
    return to_mask(fitted(mask, *size))


def refuse_other_size(mask: Picture, picture: Picture) -> None:
    """Raise `InputError` for a mask that is not as large as the picture that it masks."""
    if mask.size != picture.size:
        raise InputError(
            f"the mask must be as large as image, {picture.size[0]}x{picture.size[1]}, got {mask.size[0]}x"
            f"{mask.size[1]}"
        )


def encoded(pixels: Float[Tensor, "b p h w"], vae: AnyAutoencoder, tile: int | None) -> Float[Tensor, "b c h8 w8"]:
    """The latents that the network makes of pixels in [-1, 1]: the mean of their distribution, in float32.

    Nothing is drawn, so that the same picture has the same latents with any seed.

    Args:
        tile: side in pixels of the tiles that are encoded one by one; None for the whole picture at once.
    """
    network = _wide(vae)

    def encode(part: Tensor) -> Tensor:
        output: Any = network.encode(part.to(network.dtype))
        latents: Tensor = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
        return latents.float()

    shown = pixels.to(network.device)
    if tile is None:
        return encode(shown)
    from calotype.nn.tiling import encode_tiled  # only who asks for tiles needs it

    return encode_tiled(encode, shown, **_tiles(tile, vae))


def decoded(latents: Float[Tensor, "b c h w"], vae: AnyAutoencoder, tile: int | None) -> Float[Tensor, "b p h8 w8"]:
    """The pixels, about in [-1, 1] and in float32, that the network makes of latents. `tile` is as for `encoded`."""
    network = _wide(vae)

    def decode(part: Tensor) -> Tensor:
        output: Any = network.decode(part.to(network.dtype))
        pixels: Tensor = output.sample
        return pixels.float()

    shown = latents.to(network.device)
    if tile is None:
        return decode(shown)
    from calotype.nn.tiling import decode_tiled

    return decode_tiled(decode, shown, **_tiles(tile, vae))


def _tiles(tile: int, vae: AnyAutoencoder) -> dict[str, int]:
    """Tiles of so many pixels, as the functions that make them count: a quarter of a tile overlaps its neighbour."""
    side = vae.config.downscale
    return {"downscale": side, "tile": tile // side, "overlap": tile // side // 4}


def scaled(latents: Tensor, vae: AnyAutoencoder) -> Tensor:
    """The network's own latents at the scale that denoisers were trained at."""
    mean, std = _moments(latents, vae)
    return (latents - mean) * (_factor(vae) / std)


def unscaled(latents: Tensor, vae: AnyAutoencoder) -> Tensor:
    """Latents of a denoiser at the network's own scale."""
    mean, std = _moments(latents, vae)
    return latents * (std / _factor(vae)) + mean


def _moments(like: Tensor, vae: AnyAutoencoder) -> tuple[Tensor | float, Tensor | float]:
    """The mean and the spread of the latents, as far as the configuration knows them: for each channel, or a shift."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return getattr(config, "shift_factor", None) or 0.0, 1.0
    return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(std).view(1, -1, 1, 1)


def _factor(vae: AnyAutoencoder) -> float:
    """What latents are multiplied by, where the configuration knows it."""
    return getattr(vae.config, "scaling_factor", 1.0)


def _wide(vae: AnyAutoencoder) -> AnyAutoencoder:
    """The network, or a copy in float32 of one whose activations do not fit into float16, as its file says."""
    if vae.dtype is torch.float16 and getattr(vae.config, "force_upcast", False):
        return copy.deepcopy(vae).float()
    return vae
