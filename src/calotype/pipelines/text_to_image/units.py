"""Units of the embedded model: words to embeddings, pictures to latents and back, and the velocity."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Pad
from calotype.graph.unit import unit
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer
from calotype.nn.perturbation import Perturbation
from calotype.pipelines.latents import CleanLatents, Latents, Noise, shrink_mask
from calotype.pipelines.pictures import Picture, fitted, to_array, to_mask, to_picture
from calotype.sampling import Step
from calotype.sampling.steering import AttentionSteering, BlockReuse, Residuals, looked_into, taken_over


class PromptEmbeds(NamedTuple):
    """A prompt for the transformer: a hidden state per token, which tokens are there, and the prompt as a whole."""

    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)]
    pooled_embeds: Float[Tensor, "b c"]


def embeds_of_all(prompt: Sequence[str], *, tokenizer: WordTokenizer, text_encoder: WordTextEncoder) -> PromptEmbeds:
    """Encode prompts in one batch: hidden states [b, l, c], their mask [b, l] and pooled vectors [b, c]."""
    ids, mask = (torch.stack(part).to(text_encoder.device) for part in zip(*map(tokenizer, prompt), strict=True))
    return PromptEmbeds(*text_encoder(ids, mask))


@unit(together=embeds_of_all)
def prompt_embeds(prompt: str, *, tokenizer: WordTokenizer, text_encoder: WordTextEncoder) -> PromptEmbeds:
    """Encode one prompt: hidden states [1, l, c], their mask [1, l] and a pooled vector [1, c]."""
    ids, mask = (t[None].to(text_encoder.device) for t in tokenizer(prompt))
    return PromptEmbeds(*text_encoder(ids, mask))


@unit
def noise(seed: int, height: int, width: int, *, vae: MiniAutoencoderKL) -> Noise:
    """Standard normal noise [1, c, h / 8, w / 8], drawn on the CPU so that every device gets the same."""
    side = vae.config.downscale
    shape = (1, vae.config.latent_channels, height // side, width // side)
    generator = torch.Generator().manual_seed(seed)
    return Noise(torch.randn(shape, generator=generator).to(vae.device))


def latents_of_all(
    image: Sequence[Picture], height: Sequence[int], width: Sequence[int], *, vae: MiniAutoencoderKL
) -> CleanLatents:
    """Encode pictures of one size in one batch: [b, c, h / 8, w / 8]."""
    pixels = torch.cat([to_array(fitted(*one)) for one in zip(image, height, width, strict=True)])
    return CleanLatents(vae.encode(pixels.to(vae.device, vae.dtype)).float())


@unit(together=latents_of_all)
def image_latents(image: Picture, height: int, width: int, *, vae: MiniAutoencoderKL) -> CleanLatents:
    """Encode the input picture, scaled and cropped to height x width: [1, c, h / 8, w / 8]."""
    pixels = to_array(fitted(image, height, width))
    return CleanLatents(vae.encode(pixels.to(vae.device, vae.dtype)).float())


class Mask(NamedTuple):
    """What may change (1) and what is kept (0): at the picture's size and at that of its latents."""

    mask_pixels: Float[Tensor, "1 1 h w"]
    mask_latents: Float[Tensor, "1 1 h8 w8"]


@unit
def masks(mask: Picture, image: Picture, height: int, width: int, *, vae: MiniAutoencoderKL) -> Mask:
    """The mask at both sizes. Raises `InputError` when it is not as large as the picture that it masks."""
    if mask.size != image.size:
        raise InputError(
            f"mask must be as large as image, {image.size[0]}x{image.size[1]}, got {mask.size[0]}x{mask.size[1]}"
        )
    pixels = to_mask(fitted(mask, height, width)).to(vae.device)
    return Mask(pixels, shrink_mask(pixels, vae.config.downscale))


@unit
def velocity(
    latents: Latents,
    step: Step,
    prompt_embeds: Float[Tensor, "b l c"],
    prompt_mask: Bool[Tensor, "b l"],
    pooled_embeds: Float[Tensor, "b c"],
    perturbation: Perturbation | None,
    attention: AttentionSteering | None,
    reuse: BlockReuse | None,
    residuals: Residuals | None,
    *,
    transformer: MiniTransformer2DModel,
) -> Latents:
    """The flow's velocity, noise minus data, at the step's sigma: [b, c, h, w]."""
    shown, embeds, pooled = (t.to(transformer.dtype) for t in (latents, prompt_embeds, pooled_embeds))
    sigma = torch.as_tensor(step.each_sigma, dtype=torch.float32, device=shown.device).expand(len(shown))
    velocity = transformer(
        shown,
        sigma,
        embeds,
        prompt_mask,
        pooled,
        perturbation,
        looked_into(attention),
        taken_over(reuse),
        () if residuals is None else residuals.residuals,
    )
    return Latents(velocity)


@unit
def image(
    latents: Latents, image: Picture | None, mask_pixels: Float[Tensor, "1 1 h w"] | None, *, vae: MiniAutoencoderKL
) -> Picture:
    """Decode latents [1, c, h, w] to a picture; what a mask keeps comes from the input picture itself."""
    pixels = vae.decode(latents.to(vae.dtype)).float()
    if image is not None and mask_pixels is not None:
        known = to_array(fitted(image, *pixels.shape[-2:])).to(pixels.device)
        pixels = torch.lerp(known, pixels, mask_pixels)
    return to_picture(pixels)
