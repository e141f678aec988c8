"""Control by a picture: ControlNets of both kinds, and in-context control, as units that any pipeline of Qwen-Image can
be given.

pipe = pipe.with_units(blockwise_control(), blockwise=QwenImageBlockwiseControlNetModel.from_pretrained(
    "DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny"))
pipe(prompt="a red cat", control_image=edges)
"""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.described import Field
from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.graph.branches import Branches
from calotype.graph.hints import Each, Pad, Settings
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.models.qwen_image import Prepared, QwenImageControlNetModel, QwenImageTransformer2DModel
from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
from calotype.nn.attention_backends import AttentionBackend
from calotype.nn.patches import patched
from calotype.nn.streams import block_samples, references
from calotype.pipelines.autoencoder import encoded, scaled
from calotype.pipelines.conditions import Conditions, Residuals
from calotype.pipelines.controlled import ControlInputs
from calotype.pipelines.latents import Latents
from calotype.pipelines.naming import checked_names, renamed_inputs, renamed_unit
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_array, to_mask
from calotype.pipelines.qwen_image.units import Grids, padding
from calotype.sampling import Step
from calotype.sampling.steering import within


class FillingControlInputs(ControlInputs):
    """What a user may set of a control that may be of a part."""

    control_mask: Each[Picture] | None = Field(
        default=None, description="Of a control that fills: white is to be filled, black is kept."
    )


@unit
def blockwise_ready(
    control_image: Picture,
    control_mask: Picture | None,
    height: int,
    width: int,
    vae_tile: int | None,
    *,
    blockwise: QwenImageBlockwiseControlNetModel,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: AutoencoderKLQwenImage,
) -> Float[Tensor, "1 n w"]:
    """What all blocks of the network make of the picture: the same in every step.

    Raises:
        InputError: the pipeline draws layers, or the network is of a transformer with another number of blocks.
        MissingInput: the network was trained to fill, and there is no mask.
        UnusedInput: there is a mask, and the network sees none.
    """
    _check_fits(blockwise, transformer, "num_layers")
    fills = blockwise.config.additional_in_dim > 0
    tokens = _tokens(control_image, _mask(control_mask, fills, "additional_in_dim"), height, width, vae_tile, vae)
    return blockwise.prepare(tokens.to(blockwise.dtype))


@unit
def blockwise_controlled(
    latents: Latents,
    step: Step,
    blockwise_ready: Float[Tensor, "b n w"],
    control_scale: float,
    control_start: float,
    control_end: float,
    *,
    blockwise: QwenImageBlockwiseControlNetModel,
) -> Residuals | None:
    """What the network adds after each block at a step within the window; None at others."""
    if not within(step, (control_start, control_end)) or control_scale == 0:
        return None
    return Residuals((blockwise.residual(blockwise_ready, control_scale),))


@unit
def control_tokens(
    control_image: Picture,
    control_mask: Picture | None,
    height: int,
    width: int,
    vae_tile: int | None,
    *,
    controlnet: QwenImageControlNetModel,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: AutoencoderKLQwenImage,
) -> Float[Tensor, "1 n w"]:
    """The picture as the network's embedded tokens: the same in every step. Raises as `blockwise_ready`, and
    `InputError` for a network of other latents or another width than the transformer's."""
    _check_fits(controlnet, transformer, "in_channels", "patch_size", "width")
    fills = controlnet.config.extra_condition_channels > 0
    mask = _mask(control_mask, fills, "extra_condition_channels")
    tokens = _tokens(control_image, mask, height, width, vae_tile, vae)
    embedded: Tensor = controlnet.controlnet_x_embedder(tokens.to(controlnet.dtype))
    return embedded


class ControlPrompt(NamedTuple):
    """What the network reads: hidden states [1, l, c], and which of them are words [1, l]."""

    control_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]
    control_mask_embeds: Annotated[Bool[Tensor, "b l"], Pad(1)]


@unit
def control_prompt(
    control_image: Picture, prompt_embeds: Branches[Annotated[Float[Tensor, "b l c"], Pad(1)]]
) -> ControlPrompt:
    """The prompt for the network, which reads what is wanted on every branch of guidance, as it was trained."""
    embeds = prompt_embeds["positive"]
    return ControlPrompt(embeds, torch.ones(embeds.shape[:2], dtype=torch.bool))


@unit
def control_words(
    control_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    control_mask_embeds: Annotated[Bool[Tensor, "b l"], Pad(1)],
    grids: Grids,
    control_tokens: Float[Tensor, "b n w"],
    *,
    controlnet: QwenImageControlNetModel,
) -> Prepared:
    """What stays the same in the network from step to step: the projected prompt, positions, who sees whom."""
    return controlnet.prepare(
        control_embeds.to(controlnet.dtype), grids, padding(control_mask_embeds, control_embeds.device)
    )


@unit
def controlled(
    latents: Latents,
    step: Step,
    control_tokens: Float[Tensor, "b n w"],
    control_words: Prepared,
    control_scale: float,
    control_start: float,
    control_end: float,
    attention_kernel: AttentionBackend,
    *,
    controlnet: QwenImageControlNetModel,
    transformer: Settings[QwenImageTransformer2DModel],
) -> Residuals | None:
    """What the network adds to the transformer's image at a step within the window; None at others.

    Source: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023.
    """
    if not within(step, (control_start, control_end)) or control_scale == 0:
        return None
    tokens = patched(latents.to(controlnet.dtype), controlnet.config.patch_size).tokens
    time = controlnet.modulate(step.sigma, batch=len(latents))
    samples = controlnet.predict(tokens, control_tokens, time, control_words, attention=attention_kernel)
    scaled_samples = [sample * control_scale for sample in samples]
    return Residuals((block_samples(scaled_samples, transformer.config.num_layers),))


class ContextInputs(Inputs):
    """What a user may set of in-context control."""

    context_image: Each[Picture] | None = Field(
        default=None,
        description="What the picture is to follow (edges, depth, a pose), scaled and cropped to the size.",
    )


@unit
def context_latents(
    context_image: Picture, height: int, width: int, vae_tile: int | None, *, vae: AutoencoderKLQwenImage
) -> Float[Tensor, "1 c h8 w8"]:
    """The latents of the picture to follow: [1, c, h / 8, w / 8].

    Raises:
        InputError: the pipeline draws layers.
    """
    _check_opaque(vae)
    return scaled(encoded(to_array(fitted(context_image, height, width)), vae, vae_tile), vae)


@unit
def in_context(
    context_latents: Float[Tensor, "b c h8 w8"], *, transformer: Settings[QwenImageTransformer2DModel]
) -> Conditions:
    """The picture to follow as tokens beside the drawn one, which an adapter has taught the transformer to follow."""
    return Conditions((references(patched(context_latents, transformer.config.patch_size)),))


def blockwise_control(name: str = "control", blockwise: str = "blockwise") -> UnitPack:
    """The pack for one blockwise ControlNet, for `with_units`; for several at once one each, whose effects are added.

    Args:
        name: what the inputs begin with: `blockwise_control("depth")` adds `depth_image`, `depth_mask`, `depth_scale`,
            `depth_start` and `depth_end`.
        blockwise: the name of the component.

    Raises:
        InputError: `name` or `blockwise` is no name.
    """
    names = checked_names("control", name, FillingControlInputs)
    names |= {"blockwise_ready": "blockwise_ready" if name == "control" else f"{name}_ready"}
    names |= checked_names("blockwise", blockwise)
    return UnitPack(
        (renamed_unit(blockwise_ready, names),),
        renamed_inputs(FillingControlInputs, names),
        steer=(renamed_unit(blockwise_controlled, names).named(f"controlled_{name}"),),
        components={blockwise: QwenImageBlockwiseControlNetModel},
    )


def control(name: str = "control", controlnet: str = "controlnet") -> UnitPack:
    """The pack for one `QwenImageControlNetModel`, as `blockwise_control`."""
    wires = ("control_tokens", "control_words", "control_prompt", "control_embeds", "control_mask_embeds")
    names = checked_names("control", name, FillingControlInputs, *wires)
    names |= checked_names("controlnet", controlnet)
    return UnitPack(
        (renamed_unit(control_tokens, names), renamed_unit(control_prompt, names).named(f"{name}_prompt")),
        renamed_inputs(FillingControlInputs, names),
        steer=(renamed_unit(controlled, names).named(f"controlled_{name}"),),
        once=(renamed_unit(control_words, names),),
        components={controlnet: QwenImageControlNetModel},
    )


def context_control() -> UnitPack:
    """The pack for in-context control, for `with_units`: it adds the input `context_image`. An adapter that was trained
    for it (`pipe.load_adapter(...)`) tells the transformer what the picture is for."""
    return UnitPack((context_latents,), ContextInputs, once=(in_context,))


def _check_fits(
    controlnet: QwenImageControlNetModel | QwenImageBlockwiseControlNetModel,
    transformer: Settings[QwenImageTransformer2DModel],
    *fields: str,
) -> None:
    """Raise `InputError` for a ControlNet of a transformer with other fields."""
    for field in fields:
        wanted, found = getattr(transformer.config, field), getattr(controlnet.config, field)
        if found != wanted:
            raise InputError(f"the ControlNet is of another transformer: its {field} is {found}, and not {wanted}")


def _check_opaque(vae: AutoencoderKLQwenImage) -> None:
    """Raise `InputError` for the autoencoder of layers, which sees transparency as well."""
    if vae.config.input_channels != 3:
        raise InputError(
            f"a control's picture has 3 channels, and this pipeline's autoencoder sees {vae.config.input_channels}, "
            "as that of layers does, for which there are no controls; leave the picture out"
        )


def _mask(mask: Picture | None, fills: bool, field: str) -> Picture | None:
    """The mask of a network that fills, or None. Raises where one is missing or of no use."""
    if fills and mask is None:
        raise MissingInput(f"this ControlNet was trained to fill a part ({field}); give control_mask")
    if not fills and mask is not None:
        raise UnusedInput(f"control_mask was given, but this ControlNet sees none ({field} is 0); leave it out")
    return mask


def _tokens(
    picture: Picture, mask: Picture | None, height: int, width: int, tile: int | None, vae: AutoencoderKLQwenImage
) -> Float[Tensor, "1 n c"]:
    """The latents of a picture as tokens; with a mask those of what is kept, and which of them are."""
    _check_opaque(vae)
    pixels = to_array(fitted(picture, height, width)).to(vae.device)
    if mask is None:
        return patched(scaled(encoded(pixels, vae, tile), vae)).tokens
    if mask.size != picture.size:
        raise InputError(
            f"control_mask must be as large as control_image, {picture.size[0]}x{picture.size[1]}, got "
            f"{mask.size[0]}x{mask.size[1]}"
        )
    filled = to_mask(fitted(mask, height, width)).to(vae.device)
    latents = scaled(encoded(pixels.masked_fill(filled > 0.5, -1.0), vae, tile), vae)
    kept = 1 - interpolate((filled > 0.5).float(), size=latents.shape[-2:])
    return patched(torch.cat([latents, kept], dim=1)).tokens
