"""Units of Stable Diffusion: words to embeddings, what an inpainting network sees beside the latents, and the
prediction."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.errors import InputError
from calotype.graph.hints import Pad, Settings
from calotype.graph.unit import Unit, unit
from calotype.memory.imagined import has_data
from calotype.models.unet_2d_condition import ProjectedText, UNet2DConditionModel
from calotype.nn.perturbation import Perturbation
from calotype.pipelines.autoencoder import Autoencoder, Size, encoded, mask_of, refuse_other_size, scaled
from calotype.pipelines.guidance import guidance
from calotype.pipelines.latents import CleanLatents, Latents, keep_known, shrink_mask
from calotype.pipelines.pictures import Picture, fitted, to_array, to_picture
from calotype.pipelines.stable_diffusion.inputs import PromptSyntax
from calotype.pipelines.stable_diffusion.steering import UNetSteering, steered
from calotype.pipelines.stable_diffusion.text import (
    CLIPTextModel,
    CLIPTokenizer,
    encode_all,
    in_one_row,
    tokenize,
    weighted,
)
from calotype.sampling import Denoise, Step
from calotype.sampling.steering import AttentionSteering, BlockReuse, looked_into, taken_over


def embeds_of_all(
    prompt: Sequence[str],
    prompt_syntax: Sequence[PromptSyntax],
    clip_skip: Sequence[int],
    *,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
) -> list[Tensor]:
    """Encode prompts in one batch of all their chunks: what `prompt_embeds` returns of each."""
    texts = [tokenize(*one, tokenizer, text_encoder) for one in zip(prompt, prompt_syntax, strict=True)]
    hidden, _ = encode_all(texts, text_encoder, clip_skip)
    within: Any = getattr(text_encoder, "text_model", text_encoder)  # depends on the version of its library
    return [
        in_one_row(weighted(within.final_layer_norm(own), text.weights))
        for own, text in zip(hidden, texts, strict=True)
    ]


@unit(together=embeds_of_all)
def prompt_embeds(
    prompt: str, prompt_syntax: PromptSyntax, clip_skip: int, *, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> Annotated[Float[Tensor, "b l c"], Pad(1)]:
    """Encode one prompt: hidden states [1, 77 n, c] of its n chunks of 75 tokens, each token's by its weight."""
    return embeds_of_all([prompt], [prompt_syntax], [clip_skip], tokenizer=tokenizer, text_encoder=text_encoder)[0]


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


class Cut(NamedTuple):
    """What lies around a mask, in the place of the picture and the mask; those as they were, and the box (left, top,
    right, bottom) that was cut out of them."""

    image: Picture
    mask_image: Picture
    whole_image: Picture
    whole_mask: Picture
    cut_box: tuple[int, int, int, int]


@unit
def cut(image: Picture, mask_image: Picture, height: int, width: int, padding_mask_crop: int) -> Cut:
    """Cut out what may change with so many pixels around it, and more where the size to draw has another shape.

    Raises:
        InputError: the mask is black all over or not as large as the picture, or no box of that shape has room.
    """
    refuse_other_size(mask_image, image)
    box = _box_of(mask_image, padding_mask_crop, Size(height, width))
    return Cut(image.crop(box), mask_image.crop(box), image, mask_image, box)


@unit
def put_back(image: Picture, whole_image: Picture, whole_mask: Picture, cut_box: tuple[int, int, int, int]) -> Picture:
    """The picture that was cut into, with what was drawn where the mask is not black: grey is mixed there already."""
    left, top, right, bottom = cut_box
    finished = to_picture(to_array(whole_image))
    changed = whole_mask.convert("L").crop(cut_box).point([0] + 255 * [255])
    finished.paste(image.resize((right - left, bottom - top)), (left, top), changed)
    return finished


def _box_of(mask: Picture, padding: int, shape: Size) -> tuple[int, int, int, int]:
    """The smallest box of a shape within the mask that holds its white, and `padding` around that."""
    white = mask.convert("L").getbbox()
    if white is None:
        raise InputError("mask_image is black all over, so that nothing may change; paint white what may")
    low = [max(side - padding, 0) for side in white[:2]]
    high = [min(side + padding, end) for side, end in zip(white[2:], mask.size, strict=True)]
    width, height = (end - start for start, end in zip(low, high, strict=True))
    sides = max(width, height * shape.width // shape.height), max(height, width * shape.height // shape.width)
    if sides[0] > mask.width or sides[1] > mask.height:
        raise InputError(
            f"padding_mask_crop={padding} needs a box of {sides[0]}x{sides[1]} around the mask to draw {shape.width}x"
            f"{shape.height}, but the picture is {mask.width}x{mask.height}; give a smaller one, or a height and width "
            "of the picture's shape"
        )
    left, top = (
        min(max(start - (side - (stop - start)) // 2, 0), end - side)
        for start, stop, side, end in zip(low, high, sides, mask.size, strict=True)
    )
    return left, top, left + sides[0], top + sides[1]


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


def loop(
    predicted: Unit[..., Any],
    name: str = "denoise",
    text: Unit[..., Any] = projected_text,
    *,
    known: Mapping[str, str] | None = None,
) -> Denoise:
    """The loop of a predictor: guided, with the text prepared once, and what a mask keeps put back after every step.

    `known` says which wires hold what `keep_known` reads, where those are others; its `sigmas` are the loop's.
    """
    kept = keep_known.renamed(**known) if known else keep_known
    return Denoise(
        predicted,
        name=name,
        sigmas=kept.wire("sigmas"),
        guidance=guidance,
        once=[text],
        after_step=[kept],
        noise_source="noise_source",
        cache="cache",
    )


def beside(latents: Float[Tensor, "b c h w"], more: Float[Tensor, "b extra h w"] | None) -> Float[Tensor, "b all h w"]:
    """What the network is shown: the latents, and more channels beside them where it sees such."""
    return latents if more is None else torch.cat([latents, more], dim=1)


def attended(mask: Bool[Tensor, "b l"], device: torch.device) -> Bool[Tensor, "b l"] | None:
    """The mask for the network; None where every token counts. It lies on the CPU, where looking costs nothing."""
    return None if not has_data(mask) or bool(mask.all()) else mask.to(device)


def _inpaints(unet: UNet2DConditionModel, vae: Autoencoder) -> bool:
    """Whether the network sees a mask and the latents of what is kept beside the latents."""
    return unet.config.in_channels == 2 * vae.config.latent_channels + 1
