"""Networks that were distilled with their guidance, such as latent consistency models: they are told its scale.

pipe = pipe.with_units(distilled_guidance())
pipe(prompt="a red cat", guidance_scale=1, distilled_guidance_scale=8.0, num_inference_steps=4)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.described import Field
from calotype.errors import ConfigError, InputError
from calotype.graph.hints import Settings
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.nn.time import SinusoidalTime
from calotype.pipelines.latents import Latents
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.stable_diffusion.steering import UNetSteering
from calotype.sampling import Guidance
from calotype.sampling.guidance.policy import NoGuidance


class DistilledInputs(Inputs):
    """What a user may set of a distilled network's guidance."""

    distilled_guidance_scale: float = Field(
        default=8.5,
        ge=1,
        le=50,
        description="The guidance scale that the network is told, as it was distilled with it.",
    )


@unit
def guidance_waves(
    distilled_guidance_scale: float, *, unet: Settings[UNet2DConditionModel]
) -> Float[Tensor, "1 channels"]:
    """The waves of the guidance scale w, of 1000 (w - 1), for a network with `time_cond_proj_dim`.

    Source: Meng et al., "On Distillation of Guided Diffusion Models"; Luo et al., "Latent Consistency Models", 2023.

    Raises:
        ConfigError: the network was not distilled with guidance.
    """
    channels = unet.config.time_cond_proj_dim
    if channels is None:
        raise ConfigError(
            "this UNet2DConditionModel has no time_cond_proj_dim: it was not distilled with guidance; leave out the "
            "pack, and give guidance_scale"
        )
    waves: Tensor = SinusoidalTime(channels, cos_first=False, freq_shift=1)(
        torch.tensor([1000.0 * (distilled_guidance_scale - 1.0)])
    )
    return waves.to(unet.device)


@unit
def told(latents: Latents, guidance_waves: Float[Tensor, "1 channels"]) -> UNetSteering:
    """The waves, for every step."""
    return UNetSteering(condition=guidance_waves)


@unit
def once(policy: Guidance, distilled_guidance_scale: float) -> Guidance:
    """No other guidance. Raises `InputError` where the pipeline's own is on: the network would be guided twice."""
    if not isinstance(policy, NoGuidance) and getattr(policy, "scale", None) != 1:
        raise InputError(
            "distilled_guidance_scale takes the place of guidance_scale, and the network would be guided by both; give "
            "guidance_scale=1"
        )
    return policy


def distilled_guidance() -> UnitPack:
    """The pack for a network that is told its guidance scale, for `with_units`."""
    return UnitPack((guidance_waves,), DistilledInputs, steer=(told,), around=(once,))
