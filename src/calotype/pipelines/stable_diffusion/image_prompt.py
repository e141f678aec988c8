"""Pictures as prompts: an IP-Adapter as units that any pipeline of Stable Diffusion can be given.

pipe = pipe.with_units(ip_adapter(), ip_adapter=adapter, image_encoder=encoder, feature_extractor=processor)
pipe(prompt="in the rain", ip_image=photo, ip_scale=0.6)
"""

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.described import Field
from calotype.errors import InputError, did_you_mean
from calotype.graph.branches import Branch
from calotype.graph.hints import Component, Each, Settings
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.models.ip_adapter import IPAdapter
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.nn.transformer import PicturePrompt
from calotype.pipelines.latents import Latents
from calotype.pipelines.naming import checked_names, renamed_inputs, renamed_unit
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_mask
from calotype.pipelines.stable_diffusion.steering import UNetSteering
from calotype.sampling import Step
from calotype.sampling.steering import within

if TYPE_CHECKING:
    CLIPVisionModelWithProjection: TypeAlias = Any
    CLIPImageProcessor: TypeAlias = Any
else:
    CLIPVisionModelWithProjection = Component["transformers:CLIPVisionModelWithProjection"]
    CLIPImageProcessor = Component["transformers:CLIPImageProcessor"] | Component["transformers:CLIPImageProcessorPil"]


class PicturePromptInputs(Inputs):
    """What a user may set of a picture that prompts."""

    ip_image: Each[Picture] | None = Field(default=None, description="A picture of what to draw, beside the prompt.")
    ip_scale: float = Field(default=1.0, ge=0, le=10, description="How much it counts beside the prompt.")
    ip_blocks: dict[str, Annotated[float, Field(ge=0, le=10)]] | None = Field(
        default=None,
        description='How much in each block, {"up_blocks.0.attentions.1": 1.0}, times the scale; in others not at all.',
    )
    ip_start: float = Field(default=0.0, ge=0, lt=1, description="The share of the loop from which it counts.")
    ip_end: float = Field(default=1.0, gt=0, le=1, description="The share of the loop up to which it counts.")
    ip_mask: Each[Picture] | None = Field(default=None, description="Where it counts: white; else everywhere.")


class PictureLayers(NamedTuple):
    """Keys and values [1, tokens, c] in each layer, one after the other: a picture's, and those of no picture."""

    ip_seen: tuple[Tensor, ...]
    ip_unseen: tuple[Tensor, ...]


@unit
def ip_states(
    ip_image: Picture,
    *,
    ip_adapter: IPAdapter,
    image_encoder: CLIPVisionModelWithProjection,
    feature_extractor: CLIPImageProcessor,
) -> PictureLayers:
    """What the adapter makes of the picture for each layer: the same in every step, whatever the prompt."""
    pixels = feature_extractor(images=ip_image.convert("RGB"), return_tensors="pt").pixel_values
    pixels = pixels.to(image_encoder.device, image_encoder.dtype)
    if ip_adapter.config.reads_hidden_states:
        both = [
            image_encoder(p, output_hidden_states=True).hidden_states[-2] for p in (pixels, torch.zeros_like(pixels))
        ]
    else:
        vector = image_encoder(pixels).image_embeds
        both = [vector, torch.zeros_like(vector)]
    layers = (ip_adapter(states.to(ip_adapter.device, ip_adapter.dtype)) for states in both)
    return PictureLayers(*(tuple(part for layer in each for part in layer) for each in layers))


@unit
def ip_layers(ip_seen: tuple[Tensor, ...], ip_unseen: tuple[Tensor, ...], branch: Branch) -> tuple[Tensor, ...]:
    """The picture's keys and values on the positive branches of guidance, those of no picture on others."""
    return ip_seen if branch.is_positive else ip_unseen


@unit
def ip_region(ip_mask: Picture, ip_image: Picture, height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """Where the picture counts, at the size of what is drawn."""
    return to_mask(fitted(ip_mask, height, width))


@unit
def ip_block_scales(ip_blocks: dict[str, float], *, unet: Settings[UNet2DConditionModel]) -> tuple[float, ...]:
    """The scale of each of the denoiser's layers: that of the innermost block which is named, or 0.

    Source: Wang et al., "InstantStyle: Free Lunch towards Style-Preserving in Text-to-Image Generation", 2024.

    Raises:
        InputError: a block that has no such layers.
    """
    layers = [layer.name for layer in unet.picture_layers()]
    around = {name[:end]: None for name in layers for end, sign in enumerate(f"{name}.") if sign == "."}
    if unknown := [block for block in ip_blocks if block not in around]:
        raise InputError(
            f"no block {unknown[0]!r} of this denoiser attends to pictures{did_you_mean(unknown[0], around)}; those of "
            f"its levels do: {', '.join(name for name in around if name.count('.') <= 1)}"
        )
    named = sorted(ip_blocks, key=len)
    within_blocks = ([block for block in named if f"{name}.".startswith(f"{block}.")] for name in layers)
    return tuple(ip_blocks[found[-1]] if found else 0.0 for found in within_blocks)


@unit
def picture_prompted(
    latents: Latents,
    step: Step,
    ip_layers: tuple[Tensor, ...],
    ip_region: Float[Tensor, "b 1 h w"] | None,
    ip_scale: float,
    ip_block_scales: tuple[float, ...] | None,
    ip_start: float,
    ip_end: float,
) -> UNetSteering | None:
    """What the denoiser's layers attend to beside the text, at a step within the window; None at others.

    Source: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023.
    """
    if not within(step, (ip_start, ip_end)) or ip_scale == 0:
        return None
    layers = tuple(zip(ip_layers[::2], ip_layers[1::2], strict=True))
    mask = None if ip_region is None else ip_region.to(latents.device)
    scale = ip_scale if ip_block_scales is None else tuple(ip_scale * block for block in ip_block_scales)
    return UNetSteering(pictures=(PicturePrompt(layers, scale, mask),))


def ip_adapter(name: str = "ip", adapter: str = "ip_adapter") -> UnitPack:
    """The pack for one IP-Adapter and one picture, for `with_units`; for several at once one each.

    Args:
        name: what the inputs begin with: `ip_adapter("style")` adds `style_image`, `style_scale`, `style_blocks`,
            `style_start`, `style_end` and `style_mask`.
        adapter: the name of the adapter among the components; `image_encoder` and `feature_extractor` are shared.

    Raises:
        InputError: `name` or `adapter` is no name.
    """
    names = checked_names("ip", name, PicturePromptInputs, "ip_seen", "ip_unseen", "ip_layers", "ip_region",
                          "ip_block_scales")  # fmt: skip
    parts = checked_names("ip_adapter", adapter)
    return UnitPack(
        (
            renamed_unit(ip_states, names | parts).named(f"{name}_states"),
            renamed_unit(ip_layers, names),
            renamed_unit(ip_region, names),
            renamed_unit(ip_block_scales, names),
        ),
        renamed_inputs(PicturePromptInputs, names),
        steer=(renamed_unit(picture_prompted, names).named(f"prompted_by_{name}"),),
        components={
            adapter: IPAdapter,
            "image_encoder": CLIPVisionModelWithProjection,
            "feature_extractor": CLIPImageProcessor,
        },
    )
