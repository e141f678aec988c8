"""Units of Stable Diffusion XL: two text encoders, what the network is told of sizes, and the prediction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.errors import ConfigError, InputError, UnusedInput
from calotype.graph.branches import Branches
from calotype.graph.hints import Pad, Settings
from calotype.graph.unit import unit
from calotype.models.unet_2d_condition import ProjectedText, UNet2DConditionModel
from calotype.nn.perturbation import Perturbation
from calotype.pipelines.latents import CleanLatents, Latents, Noise
from calotype.pipelines.latents import latents as noised_latents
from calotype.pipelines.pictures import Picture
from calotype.pipelines.stable_diffusion.inputs import PromptSyntax
from calotype.pipelines.stable_diffusion.steering import UNetSteering, steered
from calotype.pipelines.stable_diffusion.text import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    encode_all,
    in_one_row,
    tokenize,
    weighted,
)
from calotype.pipelines.stable_diffusion.units import attended, beside
from calotype.sampling import NoiseLevels, Scheduler, Step
from calotype.sampling.steering import AttentionSteering, BlockReuse, looked_into, taken_over

Pair: TypeAlias = tuple[int, int]
Encoder: TypeAlias = tuple[Sequence[str], Any, Any]
"""Texts, and the tokenizer and the text encoder for them."""

SCORES = {"positive": 6.0, "negative": 2.5}
"""The aesthetic scores that a refiner is told where the caller says nothing: those that it was published with."""


class PromptEmbeds(NamedTuple):
    """A prompt for the network: a hidden state per token of each encoder, and the second one's vector of it all."""

    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]
    pooled_embeds: Float[Tensor, "b p"]


def embeds_of_all(
    prompt: Sequence[str],
    prompt_2: Sequence[str | None],
    prompt_syntax: Sequence[PromptSyntax],
    clip_skip: Sequence[int],
    *,
    tokenizer: CLIPTokenizer | None,
    text_encoder: CLIPTextModel | None,
    tokenizer_2: CLIPTokenizer,
    text_encoder_2: CLIPTextModelWithProjection,
    force_zeros_for_empty_prompt: bool,
) -> list[PromptEmbeds]:
    """Encode prompts in one batch of all their chunks for each encoder: what `prompt_embeds` returns of each."""
    second = [one if other is None else other for one, other in zip(prompt, prompt_2, strict=True)]
    encoders: list[Encoder] = [(second, tokenizer_2, text_encoder_2)]
    if text_encoder is not None:
        encoders.insert(0, (prompt, tokenizer, text_encoder))
    empty = [force_zeros_for_empty_prompt and not (one or other) for one, other in zip(prompt, second, strict=True)]
    made = _joined(encoders, prompt_syntax, clip_skip)
    return [
        PromptEmbeds(*map(torch.zeros_like, embeds)) if zero else embeds
        for embeds, zero in zip(made, empty, strict=True)
    ]


@unit(together=embeds_of_all)
def prompt_embeds(
    prompt: str,
    prompt_2: str | None,
    prompt_syntax: PromptSyntax,
    clip_skip: int,
    *,
    tokenizer: CLIPTokenizer | None,
    text_encoder: CLIPTextModel | None,
    tokenizer_2: CLIPTokenizer,
    text_encoder_2: CLIPTextModelWithProjection,
    force_zeros_for_empty_prompt: bool,
) -> PromptEmbeds:
    """Encode one prompt: hidden states [1, 77 n, c] of its n chunks from both encoders, and a pooled vector [1, p].

    The hidden states are those before the last layer, as the network was trained; the vector is of the first chunk. A
    prompt of no text is zeros where the repository says so. A refiner has no first encoder.
    """
    (found,) = embeds_of_all(
        [prompt], [prompt_2], [prompt_syntax], [clip_skip], tokenizer=tokenizer, text_encoder=text_encoder,
        tokenizer_2=tokenizer_2, text_encoder_2=text_encoder_2,
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
    )  # fmt: skip
    return found


class RefinerEmbeds(NamedTuple):
    """A prompt for a refiner that comes after another network."""

    refiner_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]
    refiner_pooled: Float[Tensor, "b p"]


@unit
def refiner_embeds(
    prompt: str,
    prompt_2: str | None,
    prompt_syntax: PromptSyntax,
    clip_skip: int,
    *,
    tokenizer_2: CLIPTokenizer,
    text_encoder_2: CLIPTextModelWithProjection,
) -> RefinerEmbeds:
    """Encode one prompt for a refiner, which reads the second encoder alone: [1, 77 n, c], and pooled [1, p]."""
    text = prompt if prompt_2 is None else prompt_2
    (found,) = _joined([([text], tokenizer_2, text_encoder_2)], [prompt_syntax], [clip_skip])
    return RefinerEmbeds(*found)


def _joined(
    encoders: Sequence[Encoder], syntax: Sequence[PromptSyntax], clip_skip: Sequence[int]
) -> list[PromptEmbeds]:
    """Of each prompt the hidden states of all encoders side by side, in as many chunks as the longest of its texts
    makes. An encoder is given all prompts at once."""
    counts = [
        [len(tokenize(text, form, *parts).weights) for text, form in zip(texts, syntax, strict=True)]
        for texts, *parts in encoders
    ]
    longest = [max(several) for several in zip(*counts, strict=True)]
    sides: list[list[Tensor]] = []
    for texts, tokenizer, text_encoder in encoders:
        rows = zip(texts, syntax, longest, strict=True)
        chunks = [tokenize(text, form, tokenizer, text_encoder, count) for text, form, count in rows]
        hidden, output = encode_all(chunks, text_encoder, [skip + 1 for skip in clip_skip])
        each = zip(hidden, chunks, strict=True)
        sides.append([in_one_row(weighted(own, text.weights)) for own, text in each])
    pooled = output.text_embeds.split([len(text.ids) for text in chunks])
    embeds = (torch.cat(side, dim=-1) for side in zip(*sides, strict=True))
    return [PromptEmbeds(own, vector[:1]) for own, vector in zip(embeds, pooled, strict=True)]


@unit
def time_ids(
    original_size: Branches[Pair | None] | None,
    crops_coords_top_left: Branches[Pair | None] | None,
    target_size: Branches[Pair | None] | None,
    aesthetic_score: Branches[float | None] | None,
    pooled_embeds: Branches[Float[Tensor, "b p"]],
    height: int,
    width: int,
    *,
    unet: Settings[UNet2DConditionModel],
) -> Branches[Float[Tensor, "b n"]]:
    """What the network is told beside the text [1, n]: the size before cropping, where the crop begins, and the size
    that is made or, for a refiner, how beautiful the picture is.

    A size that is left out on the negative branch is as on the positive; left out there too, it is the size made.

    Source: Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", section 2.2.

    Raises:
        ConfigError: the network is told something else.
        UnusedInput: a score for a network that is told none.
    """
    made = (height, width)
    sizes = [(original_size, made), (crops_coords_top_left, (0, 0))]
    given = {} if aesthetic_score is None else {n: s for n, s in aesthetic_score.items() if s is not None}
    if _told(unet, pooled_embeds.positive.shape[-1]) == 5:
        return _rows(pooled_embeds, sizes, {**SCORES, **given})
    if given:
        raise UnusedInput("aesthetic_score was given, but this network is told none: only refiners are; leave it out")
    return _rows(pooled_embeds, [*sizes, (target_size, made)])


@unit
def base_ids(
    original_size: Branches[Pair | None] | None,
    crops_coords_top_left: Branches[Pair | None] | None,
    target_size: Branches[Pair | None] | None,
    pooled_embeds: Branches[Float[Tensor, "b p"]],
    height: int,
    width: int,
    *,
    unet: Settings[UNet2DConditionModel],
) -> Branches[Float[Tensor, "b 6"]]:
    """What a network that a refiner comes after is told beside the text [1, 6]: as `time_ids`, without a score."""
    if _told(unet, pooled_embeds.positive.shape[-1]) == 5:
        raise ConfigError("unet is a refiner, which is told an aesthetic score; it belongs in the place of refiner")
    made = (height, width)
    return _rows(pooled_embeds, [(original_size, made), (crops_coords_top_left, (0, 0)), (target_size, made)])


def _rows(
    pooled: Branches[Tensor],
    sizes: Sequence[tuple[Branches[Pair | None] | None, Pair]],
    scores: Mapping[str, float] | None = None,
) -> Branches[Tensor]:
    """The numbers [1, n] for each branch: sizes, each with what it is by default, and a score."""
    rows = {}
    for name, like in pooled.items():
        numbers = [side for values, default in sizes for side in _on(values, name, default)]
        told = [*numbers, *([] if scores is None else [scores.get(name, scores["positive"])])]
        rows[name] = torch.tensor([told], dtype=torch.float32, device=like.device)
    return Branches(**rows)


def _on(values: Branches[Pair | None] | None, name: str, default: Pair) -> Pair:
    """The value on a branch, else the positive one, else the default."""
    return default if values is None else values[name] or values.positive or default


def _told(unet: UNet2DConditionModel, pooled: int) -> int:
    """How many numbers the network is told: 6, or 5 where an aesthetic score is in the place of the size made."""
    width, waves = unet.config.projection_class_embeddings_input_dim, unet.config.addition_time_embed_dim
    if unet.config.addition_embed_type != "text_time" or width is None or waves is None:
        raise ConfigError(
            "this UNet2DConditionModel is told no sizes (addition_embed_type is not 'text_time'), so it is not one of "
            "Stable Diffusion XL; StableDiffusionPipeline is for those of Stable Diffusion 1 and 2"
        )
    count, rest = divmod(width - pooled, waves)
    if rest or count not in (5, 6):
        raise ConfigError(
            f"this UNet2DConditionModel is told {width} numbers, of which {pooled} are the pooled text's and the rest "
            f"should be 5 or 6 waves of {waves}; it does not fit this text_encoder_2"
        )
    return count


@unit
def predicted(
    latents: Latents,
    step: Step,
    projected_text: ProjectedText | Float[Tensor, "b l c"],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    pooled_embeds: Float[Tensor, "b p"],
    time_ids: Float[Tensor, "b n"],
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
        added_cond_kwargs={"text_embeds": pooled_embeds.to(unet.dtype), "time_ids": time_ids},
        encoder_attention_mask=attended(prompt_mask, latents.device),
        perturbation=perturbation,
        attention=looked_into(attention),
        cache=taken_over(reuse),
        **steered(steering, unet),
    )
    return Latents(output.sample.float())


@unit
def start(strength: float, image: Picture, denoising_start: float | None) -> float | None:
    """The share of the noise that the loop starts from: the strength, where an input picture is noised."""
    return None if denoising_start is not None else strength


@unit
def between(
    sigmas: NoiseLevels, denoising_start: float | None, denoising_end: float | None, *, scheduler: Scheduler
) -> NoiseLevels:
    """The levels between two shares of the training's noise: what one network of several does.

    `denoising_end=0.8` does the first four fifths, and `denoising_start=0.8` the rest. Raises `InputError` where no
    step lies between.
    """
    first, last = denoising_start or 0.0, 1.0 if denoising_end is None else denoising_end
    if first >= last:
        raise InputError(f"denoising_start must be less than denoising_end, got {first} and {last}")
    at = _place(sigmas, scheduler)
    return sigmas if (first, last) == (0.0, 1.0) else _part(sigmas, at(first), at(last))


class Parts(NamedTuple):
    """One schedule in two parts, for two networks."""

    base_sigmas: NoiseLevels
    refiner_sigmas: NoiseLevels


@unit
def handed_over(sigmas: NoiseLevels, denoising_end: float, *, scheduler: Scheduler) -> Parts:
    """The levels of the base, which does this share of the training's noise, and those of the refiner after it."""
    at = _place(sigmas, scheduler)(denoising_end)
    return Parts(_part(sigmas, 0, at), _part(sigmas, at, len(sigmas)))


def _place(sigmas: NoiseLevels, scheduler: Scheduler) -> Callable[[float], int]:
    """How many of the steps begin within a share of the training's noise: by timestep, whatever their spacing."""
    count = len(scheduler.noise_schedule.training().here)

    def place(share: float) -> int:
        lowest = round(count - share * count)
        return sum(t >= lowest for t in sigmas.timesteps) if share < 1 else len(sigmas)

    return place


def _part(sigmas: NoiseLevels, first: int, last: int) -> NoiseLevels:
    if first >= last:
        raise InputError(f"none of the {len(sigmas)} steps lies in this part of the schedule; take more steps")
    return sigmas[first:last]


@unit
def latents(
    noise: Noise,
    start_latents: CleanLatents | None,
    image_latents: CleanLatents | None,
    denoising_start: float | None,
    sigmas: NoiseLevels,
    *,
    scheduler: Scheduler,
) -> Latents:
    """Where the loop starts: noise, or a picture's latents noised to the first level.

    With `denoising_start` the picture's latents are taken as they are: another network left them at that level.
    """
    if denoising_start is None:
        return noised_latents(noise, start_latents, sigmas, scheduler=scheduler)
    if image_latents is None:
        raise InputError("denoising_start continues what another network began; give image, or its latents")
    return Latents(image_latents)
