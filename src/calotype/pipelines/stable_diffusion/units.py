"""Units of Stable Diffusion: words to embeddings, what an inpainting network sees beside the latents, and the
prediction."""

from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.errors import InputError
from calotype.graph.hints import Pad, Settings
from calotype.graph.unit import unit
from calotype.memory.imagined import has_data
from calotype.models.unet_2d_condition import ProjectedText, UNet2DConditionModel
from calotype.nn.perturbation import Perturbation
from calotype.pipelines.autoencoder import Autoencoder, Size, encoded, mask_of, scaled
from calotype.pipelines.latents import CleanLatents, Latents, shrink_mask
from calotype.pipelines.pictures import Picture, fitted, to_array
from calotype.pipelines.stable_diffusion.inputs import PromptSyntax
from calotype.pipelines.stable_diffusion.steering import UNetSteering, steered
from calotype.pipelines.stable_diffusion.text import (
    CLIPTextModel,
    CLIPTokenizer,
    encode,
    in_one_row,
    layer,
    tokenize,
    weighted,
)
from calotype.sampling import Step
from calotype.sampling.steering import AttentionSteering, BlockReuse, looked_into, taken_over


@unit
def prompt_embeds(
    prompt: str, prompt_syntax: PromptSyntax, clip_skip: int, *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> Annotated[Float[Tensor, "b l c"], Pad(1)]:
    """Encode one prompt: hidden states [1, 77 n, c] of its n chunks of 75 tokens, each token's by its weight."""
    chunks = tokenize(prompt, prompt_syntax, tokenizer, text_encoder)
    hidden = layer(encode(chunks, text_encoder), clip_skip)
    within: Any = getattr(text_encoder, "text_model", text_encoder)  # depends on the version of its library
    return in_one_row(weighted(within.final_layer_norm(hidden), chunks.weights))


@unit
def prompt_mask(prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]) -> Annotated[Bool[Tensor, "b l"], Pad(1)]:
    """Which of the prompt's hidden states are there [1, l]: all, until prompts of other lengths join the batch."""
    return torch.ones(prompt_embeds.shape[:2], dtype=torch.bool)


@unit
def projected_text(
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)], *, unet: UNet2DConditionModel
) -> ProjectedText | Float[Tensor, "b l c"]:
    """The prompt's keys and values in every layer of the network: the same in every step.

    For a network whose layers come when they or the blocks around them are called (`memory=`, training that is shared
    out over processes) it is the prompt itself: every layer would come once more, or be asked for what is not there.
    """
    text = prompt_embeds.to(unet.dtype)
    come = any(module._forward_pre_hooks for module in unet.modules())
    return text if come else unet.project_text(text)


class Mask(NamedTuple):
    """What may change (1) and what is kept (0): at the picture's size and, where the loop is to keep it, at that of
    its latents."""

    mask_pixels: Float[Tensor, "1 1 h w"]
    mask_latents: Float[Tensor, "1 1 h8 w8"] | None


@unit
def masks(
    mask_image: Picture,
    image: Picture,
    height: int,
    width: int,
    *,
    unet: Settings[UNet2DConditionModel],
    vae: Autoencoder,
) -> Mask:
    """The mask at both sizes. Raises `InputError` when it is not as large as the picture that it masks.

    A network that was trained to inpaint sees what is kept; for others the loop puts it back after every step.
    """
    pixels = mask_of(mask_image, image, Size(height, width)).to(vae.device)
    return Mask(pixels, None if _inpaints(unet, vae) else shrink_mask(pixels, vae.config.downscale))


@unit
def start_latents(
    image_latents: CleanLatents, mask_pixels: Float[Tensor, "1 1 h w"] | None, start: float
) -> CleanLatents | None:
    """The latents that the loop starts from under noise: none where a mask is filled from noise alone."""
    return None if mask_pixels is not None and start == 1 else image_latents


@unit
def beside_latents(
    image: Picture | None,
    mask_pixels: Float[Tensor, "1 1 h w"] | None,
    height: int,
    width: int,
    vae_tile: int | None,
    *,
    unet: Settings[UNet2DConditionModel],
    vae: Autoencoder,
) -> Float[Tensor, "1 c h8 w8"] | None:
    """What a network that was trained to inpaint sees beside the latents: the mask and the latents of what is kept.

    Raises:
        InputError: such a network was given no picture and mask, or the network sees something else.
    """
    extra = unet.config.in_channels - vae.config.latent_channels
    if extra == 0:
        return None
    if not _inpaints(unet, vae):
        raise InputError(
            f"this UNet2DConditionModel sees {extra} channels beside the latents, which this pipeline does not make; "
            "StableDiffusionInstructPix2PixPipeline gives a network an input picture"
        )
    if image is None or mask_pixels is None:
        raise InputError(
            "this UNet2DConditionModel was trained to inpaint; give image and mask_image, or load another one"
        )
    changes = (mask_pixels >= 0.5).float()
    kept = to_array(fitted(image, height, width)).to(changes.device) * (1 - changes)
    latents = scaled(encoded(kept, vae, vae_tile), vae)
    return torch.cat([interpolate(changes, size=latents.shape[-2:]), latents], dim=1)


@unit
def predicted(
    latents: Latents,
    step: Step,
    projected_text: ProjectedText | Float[Tensor, "b l c"],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    beside_latents: Float[Tensor, "b extra h w"] | None,
    steering: UNetSteering | None,
    perturbation: Perturbation | None,
    attention: AttentionSteering | None,
    reuse: BlockReuse | None,
    *,
    unet: UNet2DConditionModel,
) -> Latents:
    """What the network predicts at the step's timestep: [b, c, h, w]."""
    output = unet(
        beside(latents, beside_latents).to(unet.dtype),
        step.each_timestep,
        projected_text,
        encoder_attention_mask=attended(prompt_mask, latents.device),
        perturbation=perturbation,
        attention=looked_into(attention),
        cache=taken_over(reuse),
        **steered(steering, unet),
    )
    return Latents(output.sample.float())


def beside(latents: Float[Tensor, "b c h w"], more: Float[Tensor, "b extra h w"] | None) -> Float[Tensor, "b all h w"]:
    """What the network is shown: the latents, and more channels beside them where it sees such."""
    return latents if more is None else torch.cat([latents, more], dim=1)


def attended(mask: Bool[Tensor, "b l"], device: torch.device) -> Bool[Tensor, "b l"] | None:
    """The mask for the network; None where every token counts. It lies on the CPU, where looking costs nothing."""
    return None if not has_data(mask) or bool(mask.all()) else mask.to(device)


def _inpaints(unet: UNet2DConditionModel, vae: Autoencoder) -> bool:
    """Whether the network sees a mask and the latents of what is kept beside the latents."""
    return unet.config.in_channels == 2 * vae.config.latent_channels + 1
