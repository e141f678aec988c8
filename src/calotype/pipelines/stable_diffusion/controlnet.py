"""Control by a picture: a ControlNet as units that any pipeline of Stable Diffusion can be given.

pipe = pipe.with_units(control(), controlnet=ControlNetModel.from_pretrained("lllyasviel/control_v11p_sd15_canny"))
pipe(prompt="a red cat", control_image=edges)
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.described import Field
from calotype.errors import ConfigError
from calotype.graph.branches import Branch
from calotype.graph.hints import Pad, Settings
from calotype.graph.unit import unit
from calotype.memory.imagined import has_data
from calotype.models.controlnet import ControlNetModel, EmbeddedCondition
from calotype.pipelines.controlled import ControlInputs
from calotype.pipelines.latents import Latents
from calotype.pipelines.naming import checked_names, renamed_inputs, renamed_unit
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_array, to_mask
from calotype.pipelines.stable_diffusion.steering import UNetSteering
from calotype.pipelines.stable_diffusion.units import attended
from calotype.sampling import Step
from calotype.sampling.steering import within


class GuessingControlInputs(ControlInputs):
    """What a user may set of a control that may do without a prompt."""

    control_guess: bool = Field(
        default=False,
        description="Let it decide where the prompt does not: coarse maps alone, and only for the prompt.",
    )


@unit
def control_hint(
    control_image: Picture, height: int, width: int, *, controlnet: ControlNetModel
) -> Float[Tensor, "1 c h8 w8"]:
    """The picture as the network's first map takes it in: the same in every step.

    Raises:
        ConfigError: the network sees neither colours nor grey.
    """
    picture, channels = fitted(control_image, height, width), controlnet.config.conditioning_channels
    if channels not in (1, 3):
        raise ConfigError(f"this ControlNetModel sees {channels} channels, which no picture has")
    pixels = (to_array(picture) + 1) / 2 if channels == 3 else to_mask(picture)
    return controlnet.embed_condition(pixels.to(controlnet.device, controlnet.dtype)).hint


@unit
def control_weights(
    control_hint: Float[Tensor, "1 c h8 w8"],
    control_scale: float,
    control_guess: bool,
    branch: Branch,
    *,
    controlnet: Settings[ControlNetModel],
) -> Float[Tensor, " 1"]:
    """What the control's maps are multiplied by on a branch of guidance. One that guesses, or tells what is there but
    not where, steers the positive ones alone."""
    alone = control_guess or controlnet.config.global_pool_conditions
    return torch.tensor([0.0 if alone and not branch.is_positive else control_scale])


@unit
def controlled(
    latents: Latents,
    step: Step,
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    control_hint: Float[Tensor, "b c h8 w8"],
    control_weights: Float[Tensor, " b"],
    control_start: float,
    control_end: float,
    control_guess: bool,
    *,
    controlnet: ControlNetModel,
) -> UNetSteering | None:
    """The maps that the network adds at a step within the window; None at others.

    Source: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023.
    """
    return _maps(
        latents, step, prompt_embeds, prompt_mask, control_hint, control_weights, (control_start, control_end),
        control_guess, controlnet,
    )  # fmt: skip


@unit
def controlled_xl(
    latents: Latents,
    step: Step,
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    pooled_embeds: Float[Tensor, "b p"],
    time_ids: Float[Tensor, "b n"],
    control_hint: Float[Tensor, "b c h8 w8"],
    control_weights: Float[Tensor, " b"],
    control_start: float,
    control_end: float,
    control_guess: bool,
    *,
    controlnet: ControlNetModel,
) -> UNetSteering | None:
    """As `controlled`, for a network that is told sizes and a pooled text."""
    added = {"text_embeds": pooled_embeds.to(controlnet.dtype), "time_ids": time_ids}
    return _maps(
        latents, step, prompt_embeds, prompt_mask, control_hint, control_weights, (control_start, control_end),
        control_guess, controlnet, added,
    )  # fmt: skip


def _maps(
    latents: Tensor,
    step: Step,
    text: Tensor,
    mask: Tensor,
    hint: Tensor,
    weights: Tensor,
    window: tuple[float, float],
    guess: bool,
    controlnet: ControlNetModel,
    added: Mapping[str, Tensor] | None = None,
) -> UNetSteering | None:
    scale = _one_number(weights)
    if not within(step, window) or (isinstance(scale, float) and scale == 0):
        return None
    made = controlnet(
        latents.to(controlnet.dtype),
        step.each_timestep,
        text.to(controlnet.dtype),
        EmbeddedCondition(hint),
        scale,
        added_cond_kwargs=added,
        guess_mode=guess,
        encoder_attention_mask=attended(mask, latents.device),
    )
    return UNetSteering(downs=tuple(made.down_block_res_samples), middle=made.mid_block_res_sample)


def _one_number(weights: Tensor) -> float | Tensor:
    """The items' weight where it is one for all. They lie on the CPU, where looking costs nothing."""
    if not has_data(weights) or bool((weights != weights[0]).any()):
        return weights
    return float(weights[0])


def control(name: str = "control", controlnet: str = "controlnet", *, xl: bool = False) -> UnitPack:
    """The pack for one ControlNet, for `with_units`; for several at once one each, whose maps are added.

    Args:
        name: what the inputs begin with: `control("depth")` adds `depth_image`, `depth_scale`, `depth_start`,
            `depth_end` and `depth_guess`.
        controlnet: the name of the component.
        xl: for a pipeline of Stable Diffusion XL.

    Raises:
        InputError: `name` or `controlnet` is no name.
    """
    names = checked_names("control", name, GuessingControlInputs, "control_hint", "control_weights")
    parts = checked_names("controlnet", controlnet)
    return UnitPack(
        (renamed_unit(control_hint, names | parts), renamed_unit(control_weights, names | parts)),
        renamed_inputs(GuessingControlInputs, names),
        steer=(renamed_unit(controlled_xl if xl else controlled, names | parts).named(f"controlled_{name}"),),
        components={controlnet: ControlNetModel},
    )
