"""Control of the embedded model by a picture, such as edges, as units that its pipeline can be given; or a pipeline of
its parts around another transformer.

pipe = pipe.with_units(control(), controlnet=QwenImageBlockwiseControlNetModel.from_pretrained("edges"))
pipe(prompt="a red apple", control_image=edges)
"""

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Settings
from calotype.graph.unit import unit
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
from calotype.nn.patches import patched
from calotype.pipelines.controlled import ControlInputs
from calotype.pipelines.latents import Latents
from calotype.pipelines.naming import checked_names, renamed_inputs, renamed_unit
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_array
from calotype.sampling import Step
from calotype.sampling.steering import Residuals, within

Transformer: TypeAlias = MiniTransformer2DModel | QwenImageTransformer2DModel
"""What the control is for: tokens of one latent each, and residuals that are added to them after the blocks."""


def new_controlnet(transformer: Transformer, downscale: int = 8) -> QwenImageBlockwiseControlNetModel:
    """A network to train for a transformer. It adds nothing yet, and so begins with the pictures that there were.

    Its control is pixels, not latents: a token is the square of `downscale` pixels a side of one latent.
    """
    config = transformer.config
    network = QwenImageBlockwiseControlNetModel(num_layers=config.num_layers, in_dim=3 * downscale**2, dim=config.width)
    for name, parameter in network.named_parameters():
        if "output_proj" in name:
            parameter.data.zero_()
    return network


@unit
def control_tokens(
    control_image: Picture,
    height: int,
    width: int,
    *,
    controlnet: Settings[QwenImageBlockwiseControlNetModel],
    transformer: Settings[Transformer],
    vae: Settings[MiniAutoencoderKL],
) -> Float[Tensor, "1 n c"]:
    """The picture's pixels, a token for each latent: the same in every step.

    Raises:
        InputError: the network is for another transformer or autoencoder.
    """
    side = vae.config.downscale
    for name, wanted, found in (
        ("num_layers", transformer.config.num_layers, controlnet.config.num_layers),
        ("dim", transformer.config.width, controlnet.config.dim),
        ("in_dim", 3 * side**2, controlnet.config.in_dim + controlnet.config.additional_in_dim),
    ):
        if found != wanted:
            raise InputError(f"the ControlNet is for another model: its {name} is {found}, and must be {wanted}")
    return patched(to_array(fitted(control_image, height, width)), side).tokens


@unit
def controlled(
    latents: Latents,
    step: Step,
    control_tokens: Float[Tensor, "b n c"],
    control_scale: float,
    control_start: float,
    control_end: float,
    *,
    controlnet: QwenImageBlockwiseControlNetModel,
) -> Residuals | None:
    """What the network adds after each block at a step within the window; None at others.

    Source: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023.
    """
    if not within(step, (control_start, control_end)) or control_scale == 0:
        return None
    ready = controlnet.prepare(control_tokens.to(controlnet.device, controlnet.dtype))  # a hundredth of the step
    return Residuals((controlnet.residual(ready, control_scale),))


def control(name: str = "control", controlnet: str = "controlnet") -> UnitPack:
    """The pack for one control, for `with_units`; for several at once one each, whose effects are added.

    Args:
        name: what the inputs begin with: `control("sketch")` adds `sketch_image`, `sketch_scale`, `sketch_start` and
            `sketch_end`.
        controlnet: the name of the component.

    Raises:
        InputError: `name` or `controlnet` is no name.
    """
    names = checked_names("control", name, ControlInputs, "control_tokens")
    names |= checked_names("controlnet", controlnet)
    return UnitPack(
        (renamed_unit(control_tokens, names),),
        renamed_inputs(ControlInputs, names),
        steer=(renamed_unit(controlled, names).named(f"controlled_{name}"),),
        components={controlnet: QwenImageBlockwiseControlNetModel},
    )
