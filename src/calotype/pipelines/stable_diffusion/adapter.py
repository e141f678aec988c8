"""Control by a picture: a T2I-Adapter as units that any pipeline of Stable Diffusion can be given.

pipe = pipe.with_units(t2i_adapter(), adapter=T2IAdapter.from_pretrained("TencentARC/t2iadapter_sketch_sd15v2"))
pipe(prompt="a red cat", adapter_image=sketch)
"""

from torch import Tensor

from calotype.described import Field
from calotype.errors import ConfigError
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.models.t2i_adapter import T2IAdapter
from calotype.pipelines.latents import Latents
from calotype.pipelines.naming import checked_names, renamed_inputs, renamed_unit
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_array, to_mask
from calotype.pipelines.stable_diffusion.steering import UNetSteering
from calotype.sampling import Step
from calotype.sampling.steering import within


class AdapterInputs(Inputs):
    """What a user may set of a T2I-Adapter."""

    adapter_image: Each[Picture] | None = Field(
        default=None, description="What the picture is to follow (a sketch, a pose), scaled and cropped to the size."
    )
    adapter_scale: float = Field(default=1.0, ge=0, le=10, description="How closely to follow it.")
    adapter_start: float = Field(default=0.0, ge=0, lt=1, description="The share of the loop from which it counts.")
    adapter_end: float = Field(default=1.0, gt=0, le=1, description="The share of the loop up to which it counts.")


@unit
def adapter_maps(adapter_image: Picture, height: int, width: int, *, adapter: T2IAdapter) -> tuple[Tensor, ...]:
    """What the adapter makes of the picture, a map [1, c, h, w] for each level: the same in every step.

    Raises:
        ConfigError: the adapter sees neither colours nor grey.
    """
    picture, channels = fitted(adapter_image, height, width), adapter.config.in_channels
    if channels not in (1, 3):
        raise ConfigError(f"this T2IAdapter sees {channels} channels, which no picture has")
    pixels = (to_array(picture) + 1) / 2 if channels == 3 else to_mask(picture)
    maps: tuple[Tensor, ...] = adapter(pixels.to(adapter.device, adapter.dtype))
    return maps


@unit
def adapted(
    latents: Latents,
    step: Step,
    adapter_maps: tuple[Tensor, ...],
    adapter_scale: float,
    adapter_start: float,
    adapter_end: float,
) -> UNetSteering | None:
    """The adapter's maps at a step within the window; None at others.

    Source: Mou et al., "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image
    Diffusion Models", 2023.
    """
    if not within(step, (adapter_start, adapter_end)) or adapter_scale == 0:
        return None
    return UNetSteering(levels=tuple(m * adapter_scale for m in adapter_maps))


def t2i_adapter(name: str = "adapter", adapter: str = "adapter") -> UnitPack:
    """The pack for one T2I-Adapter, for `with_units`; for several at once one each, whose maps are added.

    Args:
        name: what the inputs begin with: `t2i_adapter("sketch")` adds `sketch_image`, `sketch_scale`, `sketch_start`
            and `sketch_end`.
        adapter: the name of the component.

    Raises:
        InputError: `name` or `adapter` is no name.
    """
    names = checked_names("adapter", name, AdapterInputs, "adapter_maps")
    parts = checked_names("adapter", adapter)
    return UnitPack(
        (renamed_unit(adapter_maps, names | parts),),
        renamed_inputs(AdapterInputs, names),
        steer=(renamed_unit(adapted, names).named(f"adapted_{name}"),),
        components={adapter: T2IAdapter},
    )
