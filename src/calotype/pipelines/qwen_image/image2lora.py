"""Image to LoRA: pictures become an adapter of the transformer, which runs in that call alone.

pipe = pipe.with_units(image_to_lora("style"), siglip=siglip, dinov3=dinov3, image2lora_style=style)
pipe(prompt="a cat", adapter_images=["one.png", "two.png"])
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.described import Field, model_validator
from calotype.errors import InputError, did_you_mean
from calotype.graph.hints import Component, Settings
from calotype.graph.inputs import Inputs
from calotype.graph.unit import Unit, unit
from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.models.qwen_image_image2lora import QwenImageImage2LoRAModel
from calotype.nn.beside import Pair, check_fits
from calotype.paths import path_of
from calotype.pipelines.conditions import CallAdapters
from calotype.pipelines.inputs import listed
from calotype.pipelines.latents import Latents
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, to_array
from calotype.pipelines.qwen_image.editing import check_pixels
from calotype.pipelines.qwen_image.text import (
    Qwen2_5_VL,
    Qwen2Tokenizer,
    Qwen2VLProcessor,
    encoded_with_pictures,
)

if TYPE_CHECKING:
    SiglipVision: TypeAlias = Any
    DINOv3: TypeAlias = Any
else:
    SiglipVision = Component["transformers:SiglipVisionModel"]
    DINOv3 = Component["transformers:DINOv3ViTModel"]

Kind: TypeAlias = Literal["style", "coarse", "fine"]
KINDS: tuple[Kind, ...] = ("style", "coarse", "fine")

SEEN_SIDE = 1024
"""Side of the square that every encoder is shown, each at its own size."""
COARSE_SIDE = 224
"""Side of the square that the text encoder is shown for the coarse network; for the fine one it is `SEEN_SIDE`."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and spread of the pixels that DINOv3 was trained with."""


@dataclass(frozen=True)
class MadeAdapter:
    """An adapter that was made and not loaded: the change of every layer by its name in the transformer, `down [r, in]`
    and `up [out, r]`. The sum of two does what both do."""

    pairs: Mapping[str, Pair]

    def __add__(self, other: Self) -> Self:
        both = {name: _joined(self.pairs[name], other.pairs[name]) for name in self.pairs.keys() & other.pairs.keys()}
        return type(self)({**self.pairs, **other.pairs, **both})

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it for `pipe.load_adapter`, and for whatever reads diffusers' files: a `.safetensors` file, or a folder
        in which it gets its name. Returns the file."""
        from calotype.adapters.change import LowRank  # only who saves needs it
        from calotype.adapters.write import save_changes

        changes = {name: LowRank({"down": down, "up": up}) for name, (down, up) in self.pairs.items()}
        place = path_of(path, "saving an adapter", "the path of a .safetensors file or of a folder")
        return save_changes(place, {"transformer": dict(changes)}, {}, "diffusers")


def _joined(one: Pair, other: Pair) -> Pair:
    return torch.cat((one[0], other[0])), torch.cat((one[1], other[1]), dim=1)


class ImageToLoRAInputs(Inputs):
    """What a user may set."""

    adapter_images: tuple[Picture, ...] | None = Field(
        default=None, min_length=1, description="Pictures that an adapter is made of, which runs in this call."
    )
    adapter_scale: float = Field(default=1.0, ge=-10, le=10, description="How strongly that adapter runs.")

    @model_validator(mode="before")
    @classmethod
    def _adapter_pictures(cls, values: Any) -> Any:
        return listed(values, "adapter_images")


@unit
def picture_features(
    adapter_images: tuple[Picture, ...], *, siglip: SiglipVision, dinov3: DINOv3
) -> Float[Tensor, "n c"]:
    """What two encoders see in each picture: their pooled features, one after the other.

    Raises:
        InputError: a picture has no pixels.
    """
    rows = []
    for picture in adapter_images:
        pixels = to_array(squared(picture, SEEN_SIDE)) / 2 + 0.5
        half = torch.full((3,), 0.5)
        seen = (_pooled(siglip, pixels, half, half), _pooled(dinov3, pixels, *map(torch.tensor, _IMAGENET)))
        rows.append(torch.cat([each.float().to(siglip.device) for each in seen], dim=-1))
    return torch.cat(rows)


def _pooled(encoder: Any, pixels: Float[Tensor, "1 3 h w"], mean: Tensor, spread: Tensor) -> Float[Tensor, "1 c"]:
    """The pooled features of pixels in [0, 1], at the size that an encoder was trained with."""
    side = encoder.config.image_size
    shown = interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    normal = (shown - mean.view(1, 3, 1, 1)) / spread.view(1, 3, 1, 1)
    pooled: Tensor = encoder(pixel_values=normal.to(encoder.device, encoder.dtype)).pooler_output
    return pooled


@unit
def coarse_states(
    adapter_images: tuple[Picture, ...],
    *,
    tokenizer: Qwen2Tokenizer,
    processor: Qwen2VLProcessor,
    text_encoder: Qwen2_5_VL,
) -> tuple[Tensor, ...]:
    """The hidden states [l, d] of each picture, at 224 x 224 pixels, from the text encoder."""
    return _states(adapter_images, COARSE_SIDE, tokenizer, processor, text_encoder)


@unit
def fine_states(
    adapter_images: tuple[Picture, ...],
    *,
    tokenizer: Qwen2Tokenizer,
    processor: Qwen2VLProcessor,
    text_encoder: Qwen2_5_VL,
) -> tuple[Tensor, ...]:
    """The hidden states [l, d] of each picture, at 1024 x 1024 pixels, from the text encoder."""
    return _states(adapter_images, SEEN_SIDE, tokenizer, processor, text_encoder)


def _states(
    pictures: tuple[Image.Image, ...], side: int, tokenizer: Any, processor: Any, text_encoder: Any
) -> tuple[Tensor, ...]:
    """What the text encoder makes of each picture in the template of an edit, without an instruction."""
    return tuple(
        encoded_with_pictures("", [squared(one, side)], tokenizer, processor, text_encoder, numbered=False)[0]
        for one in pictures
    )


@unit
def style_adapter(
    picture_features: Float[Tensor, "n c"],
    *,
    image2lora_style: QwenImageImage2LoRAModel,
    transformer: Settings[QwenImageTransformer2DModel],
) -> MadeAdapter:
    """The adapter that has the pictures' style: the mean of those that each of them makes.

    Raises:
        InputError: the network was made for other encoders, or for another transformer.
    """
    return _mean([image2lora_style(row) for row in picture_features], transformer)


@unit
def coarse_adapter(
    picture_features: Float[Tensor, "n c"],
    coarse_states: tuple[Tensor, ...],
    *,
    image2lora_coarse: QwenImageImage2LoRAModel,
    transformer: Settings[QwenImageTransformer2DModel],
) -> MadeAdapter:
    """The adapter that has what is in the pictures: all but details or, of the fine network, these. Raises as
    `style_adapter`."""
    each = zip(picture_features, coarse_states, strict=True)
    return _mean([image2lora_coarse(row, states) for row, states in each], transformer)


fine_adapter = coarse_adapter.renamed(
    coarse_adapter="fine_adapter", coarse_states="fine_states", image2lora_coarse="image2lora_fine"
)
"""The same of the fine network."""


def _mean(made: list[Mapping[str, Pair]], transformer: QwenImageTransformer2DModel) -> MadeAdapter:
    """The mean of several adapters: side by side, each at its share. Checked, and of the transformer's type."""
    check_fits(transformer, made[0])
    kind, share = transformer.dtype, 1 / len(made)
    several = [{n: ((down * share).to(kind), up.to(kind)) for n, (down, up) in pairs.items()} for pairs in made]
    return sum(map(MadeAdapter, several[1:]), MadeAdapter(several[0]))


@unit
def adapted_times(made: MadeAdapter, adapter_scale: float) -> CallAdapters:
    """The adapter, for what is made once for the loop."""
    return CallAdapters(((made.pairs, adapter_scale),))


@unit
def adapted(latents: Latents, made: MadeAdapter, adapter_scale: float) -> CallAdapters:
    """The adapter, for each step."""
    return CallAdapters(((made.pairs, adapter_scale),))


_MAKERS: Mapping[str, tuple[Unit[..., Any], ...]] = {
    "style": (style_adapter,),
    "coarse": (coarse_states, coarse_adapter),
    "fine": (fine_states, fine_adapter),
}


def image_to_lora(*kinds: Kind) -> UnitPack:
    """The pack for image to LoRA, for `with_units`: it adds the inputs `adapter_images` and `adapter_scale`, and makes
    `style_adapter`, `coarse_adapter` or `fine_adapter`, which run in the call and can be asked for with `outputs=`.

    Args:
        kinds: the networks to take: `"style"`, or `"coarse"`, or `"coarse"` and `"fine"`. Each is a component,
            `image2lora_style` and so on, beside the encoders `siglip` and `dinov3`; the latter two look at pictures
            with the text encoder as well, for which there must be a `processor`.

    Raises:
        InputError: there is no kind of a name, none was given, or one twice.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kinds of image to LoRA are {', '.join(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}")
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(f"name each kind of image to LoRA once, {', '.join(KINDS)}; got {', '.join(kinds) or 'none'}")
    encoders = {"siglip": SiglipVision, "dinov3": DINOv3}
    reading = {} if kinds == ("style",) else {"processor": Qwen2VLProcessor}
    wires = {kind: f"{kind}_adapter" for kind in kinds}
    return UnitPack(
        (picture_features, *(maker for kind in kinds for maker in _MAKERS[kind])),
        ImageToLoRAInputs,
        steer=tuple(adapted.renamed(made=wire).named(f"with_{wire}") for wire in wires.values()),
        once=tuple(adapted_times.renamed(made=wire).named(f"times_with_{wire}") for wire in wires.values()),
        components={**encoders, **reading, **{f"image2lora_{kind}": QwenImageImage2LoRAModel for kind in kinds}},
    )


def squared(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, scaled to a square; transparent parts over white. Raises `InputError` for a picture
    without pixels."""
    check_pixels(picture)
    scale = max(side / picture.width, side / picture.height)
    width, height = round(picture.width * scale), round(picture.height * scale)
    if picture.has_transparency_data:
        over = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(over, picture.convert("RGBA"))
    whole = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return whole.crop((left, top, left + side, top + side))
