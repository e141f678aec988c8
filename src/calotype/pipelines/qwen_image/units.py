"""Units of Qwen-Image: words to embeddings, pictures to latents and back, noise levels, and the velocity."""

from typing import Annotated, NamedTuple, NewType

import torch
from jaxtyping import Bool, Float
from PIL import ImageFilter
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.errors import ComponentError, InputError
from calotype.graph.hints import Pad, Settings
from calotype.graph.unit import unit
from calotype.memory.imagined import has_data
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.models.qwen_image import Modulation, Prepared, QwenImageTransformer2DModel
from calotype.nn.attention_backends import AttentionBackend
from calotype.nn.beside import running_beside
from calotype.nn.patches import Squares
from calotype.nn.perturbation import Perturbation
from calotype.nn.streams import Grid
from calotype.pipelines.autoencoder import Pixels, Size, checked_size, decoded, encoded, mask_of, scaled, unscaled
from calotype.pipelines.conditions import CallAdapters, Conditions, Residuals, changes_of
from calotype.pipelines.guidance import guidance as plain_guidance
from calotype.pipelines.latents import CleanLatents, Latents, Noise, drawn_noise, shrink_mask
from calotype.pipelines.pictures import Picture, fitted, to_array
from calotype.pipelines.qwen_image.text import Qwen2_5_VL, Qwen2Tokenizer, encoded_text
from calotype.sampling import Guidance, NoiseLevels, NoiseSource, NormKept, Scheduler, Step
from calotype.sampling.packing import Packing
from calotype.sampling.parameterization import Flow
from calotype.sampling.steering import BlockReuse, taken_over

TRAINED_SIDE = 1328
"""In pixels, of a square picture."""

Grids = NewType("Grids", tuple[Grid, ...])
"""Frames, rows and columns of the tokens of what is drawn: one grid, or one for each layer."""

Times = NewType("Times", tuple[Modulation, ...])
"""What the time of each step does to the transformer."""


@unit
def size(
    height: int | None,
    width: int | None,
    image: Picture | None,
    *,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: Settings[AutoencoderKLQwenImage],
) -> Size:
    """The size of the picture to make: as asked for, else as the input picture, else 1328 x 1328.

    Raises:
        InputError: a side that tokens cannot fill, with the nearest that they can, or a picture without pixels.
    """
    if image is not None and 0 in image.size:
        raise InputError(f"image must have pixels, got {image.width}x{image.height}")
    default = Size(TRAINED_SIDE, TRAINED_SIDE) if image is None else Size(image.height, image.width)
    return checked_size(height, width, default, vae.config.downscale * transformer.config.patch_size)


@unit
def prompt_embeds(
    prompt: str, *, tokenizer: Qwen2Tokenizer, text_encoder: Qwen2_5_VL
) -> Annotated[Float[Tensor, "b l c"], Pad(1)]:
    """Encode one prompt: hidden states [1, l, c] of its tokens and of the template's end."""
    return encoded_text(prompt, tokenizer, text_encoder)


@unit
def prompt_mask(prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]) -> Annotated[Bool[Tensor, "b l"], Pad(1)]:
    """Which of the prompt's hidden states are there [1, l]: all, until prompts of other lengths join the batch."""
    return torch.ones(prompt_embeds.shape[:2], dtype=torch.bool)


@unit
def noise(
    seed: int, height: int, width: int, noise_source: NoiseSource | None, *, vae: Settings[AutoencoderKLQwenImage]
) -> Noise:
    """Standard normal noise [1, c, h / 8, w / 8]."""
    side = vae.config.downscale
    return drawn_noise((1, vae.config.latent_channels, height // side, width // side), seed, noise_source, vae.device)


@unit
def image_latents(
    image: Picture, height: int, width: int, vae_tile: int | None, *, vae: AutoencoderKLQwenImage
) -> CleanLatents:
    """Encode the input picture, scaled and cropped to height x width: [1, c, h / 8, w / 8]."""
    return CleanLatents(scaled(encoded(to_array(fitted(image, height, width)), vae, vae_tile), vae))


class Mask(NamedTuple):
    """What may change (1) and what is kept (0): at the picture's size and at that of its latents."""

    mask_pixels: Float[Tensor, "1 1 h w"]
    mask_latents: Float[Tensor, "1 1 h8 w8"]


@unit
def masks(
    mask_image: Picture,
    image: Picture,
    mask_blur: float,
    height: int,
    width: int,
    *,
    vae: Settings[AutoencoderKLQwenImage],
) -> Mask:
    """The mask at both sizes, its edge blended over so many pixels.

    A blended latent may change by the mean of its pixels; where nothing is blended, it may where any pixel may.

    Raises:
        InputError: the mask is not as large as the picture that it masks.
    """
    side, target = vae.config.downscale, Size(height, width)
    if mask_blur == 0:
        pixels = mask_of(mask_image, image, target).to(vae.device)
        return Mask(pixels, shrink_mask(pixels, side))
    soft = fitted(mask_image.convert("L"), height, width).filter(ImageFilter.GaussianBlur(mask_blur))
    if mask_image.size != image.size:
        mask_of(mask_image, image, target)  # which says what is wrong
    pixels = mask_of(soft, fitted(image, height, width), target).to(vae.device)
    return Mask(pixels, interpolate(pixels, scale_factor=1 / side, mode="area"))


@unit
def grids(
    height: int,
    width: int,
    *,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: Settings[AutoencoderKLQwenImage],
) -> Grids:
    """The one grid of tokens of a picture. Raises `ComponentError` where latents are not the transformer's."""
    side = token_side(transformer, vae)
    return Grids(((1, height // side, width // side),))


def token_side(transformer: Settings[QwenImageTransformer2DModel], vae: Settings[AutoencoderKLQwenImage]) -> int:
    """The side of a token's square of pixels. Raises `ComponentError` for an autoencoder of another transformer."""
    side, channels = transformer.config.patch_size, vae.config.latent_channels
    if channels * side**2 != transformer.config.in_channels:
        raise ComponentError(
            f"the autoencoder is of another transformer: {side}x{side} of its latents have {channels * side**2} "
            f"numbers, and a token of this one has {transformer.config.in_channels} (in_channels)"
        )
    return vae.config.downscale * side


@unit
def sigmas(num_inference_steps: int, start: float | None, grids: Grids, *, scheduler: Scheduler) -> NoiseLevels:
    """The noise levels, shifted by how many tokens are drawn: from pure noise, where before the shift they are n even
    levels from 1 to 1 / n, or from the level that an input picture starts at, which does not depend on n.

    Raises:
        ComponentError: the scheduler is not one of flow matching.
    """
    check_flow(scheduler)
    if start is None or start == 1:
        return scheduler.schedule(sigmas=even_levels(num_inference_steps), image_tokens=tokens_of(grids))
    return scheduler.schedule(num_inference_steps, start=start, image_tokens=tokens_of(grids))


def check_flow(scheduler: Scheduler) -> None:
    """Raise `ComponentError` for a scheduler that takes the transformer's velocity for something else."""
    if scheduler.parameterization != Flow():
        raise ComponentError(
            f"Qwen-Image's transformer predicts the velocity of flow matching, and {type(scheduler).__name__} as it is "
            f"set up reads {type(scheduler.parameterization).__name__}; set pipe.scheduler = FlowMatchEuler(...), or "
            'one with use_flow_sigmas=True and prediction_type="flow_prediction"'
        )


def tokens_of(grids: Grids) -> int:
    """How many tokens are drawn."""
    return sum(frames * rows * columns for frames, rows, columns in grids)


def even_levels(count: int) -> tuple[float, ...]:
    """So many levels from 1 downwards, as far apart as the last is from 0."""
    return tuple((count - index) / count for index in range(count))


@unit
def guidance(
    guidance_scale: float,
    guidance_rescale: float,
    guidance_interval: tuple[float, float],
    guidance_norm: bool,
    guidance: Guidance | None,
) -> Guidance:
    """Classifier-free guidance that keeps the length of every token's prediction, or the policy that was given."""
    policy = plain_guidance.fn(guidance_scale, guidance_rescale, guidance_interval, guidance)
    return NormKept(policy) if guidance_norm and guidance is None else policy


@unit
def ready(
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    grids: Grids,
    conditions: Conditions | None,
    *,
    transformer: QwenImageTransformer2DModel,
) -> Prepared:
    """What stays the same from step to step: projected texts and pictures, positions, who sees whom."""
    return transformer.prepare(
        prompt_embeds.to(transformer.dtype),
        grids,
        padding(prompt_mask, prompt_embeds.device),
        conditions=() if conditions is None else conditions.conditions,
        interpolate_rope=conditions is not None and conditions.interpolated,
    )


def padding(mask: Bool[Tensor, "b l"], device: torch.device) -> Bool[Tensor, "b l"] | None:
    """The mask for a network; None where every token counts. It lies on the CPU, where looking costs nothing."""
    return None if not has_data(mask) or bool(mask.all()) else mask.to(device)


@unit
def times(sigmas: NoiseLevels, adapters: CallAdapters | None, *, transformer: QwenImageTransformer2DModel) -> Times:
    """What each step's time does to every block: its weights, a third of the network, are read once for all steps."""
    levels = torch.tensor([level.sigma for level in sigmas.here], device=transformer.device)
    with running_beside(transformer, changes_of(adapters)):
        return Times(transformer.modulate_ahead(levels, _drawn_whole(transformer)))


def _drawn_whole(transformer: QwenImageTransformer2DModel) -> Tensor | None:
    """What a network for layers is told beside the time; None for others."""
    told = transformer.config.use_additional_t_cond
    return torch.zeros(1, dtype=torch.long, device=transformer.device) if told else None


@unit
def squares(*, transformer: Settings[QwenImageTransformer2DModel]) -> Packing:
    """The latents as the transformer's tokens: they are packed once for the loop."""
    return Squares(transformer.config.patch_size)


@unit
def velocity(
    latents: Latents,
    step: Step,
    ready: Prepared,
    times: Times | None,
    attention_kernel: AttentionBackend,
    residuals: Residuals | None,
    perturbation: Perturbation | None,
    reuse: BlockReuse | None,
    adapters: CallAdapters | None,
    *,
    transformer: QwenImageTransformer2DModel,
) -> Latents:
    """The flow's velocity, noise minus data, at the step's sigma: of tokens of latents [b, n, c], for those.

    Where there are no levels to go through, as in training, the time is that of the step.
    """
    with running_beside(transformer, changes_of(adapters)):
        if times is None:
            time = transformer.modulate(step.each_sigma, _drawn_whole(transformer), batch=len(latents))
        else:
            time = times[step.index]
        predicted = transformer.predict(
            latents.to(time.active[0]),
            time,
            ready,
            residuals=() if residuals is None else residuals.residuals,
            perturbation=perturbation,
            attention=attention_kernel,
            cache=taken_over(reuse),
        )
    return Latents(predicted.float())


@unit
def pixels(latents: Latents, vae_tile: int | None, *, vae: AutoencoderKLQwenImage) -> Pixels:
    """Decode latents [1, c, h, w]: [1, 3, 8 h, 8 w], in [-1, 1]."""
    return Pixels(decoded(unscaled(latents, vae), vae, vae_tile))
