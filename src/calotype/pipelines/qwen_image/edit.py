"""Qwen-Image-Edit: pictures changed, or made of one another, as an instruction says."""

from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.node import Node
from calotype.pipelines.autoencoder import image
from calotype.pipelines.base import takes
from calotype.pipelines.inputs import refuse_both
from calotype.pipelines.latents import noise_source, pure_noise
from calotype.pipelines.pictures import Picture
from calotype.pipelines.qwen_image.editing import (
    beside,
    copied_latents,
    edited_size,
    finished,
    instructed_embeds,
    numbered_embeds,
    shown,
    shown_several,
)
from calotype.pipelines.qwen_image.inputs import DrawnInputs
from calotype.pipelines.qwen_image.pipeline import Components
from calotype.pipelines.qwen_image.text import Qwen2VLProcessor
from calotype.pipelines.qwen_image.units import (
    all_sigmas,
    grids,
    guidance,
    noise,
    pixels,
    prompt_mask,
    ready,
    times,
    velocity,
)
from calotype.sampling import Denoise


class ReferenceInputs(Inputs):
    """How the pictures are shown to the transformer."""

    image_resize: bool = Field(
        default=True, description="Show the transformer every picture at about 1024 x 1024 pixels; else as it is."
    )
    interpolate_rope: bool = Field(
        default=False, description="Let a picture of another size cover the same ground as the drawn one."
    )


class EditInputs(ReferenceInputs, DrawnInputs):
    """What a user may set."""

    image: Each[Picture] = Field(description="The picture to change.")


class EditPlusInputs(ReferenceInputs, DrawnInputs):
    """What a user may set."""

    images: tuple[Picture, ...] = Field(
        min_length=1, validation_alias=AliasChoices("images", "image"),
        description="The pictures to change or to take things from; the prompt may call them Picture 1, Picture 2.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _several(cls, values: Any) -> Any:
        refuse_both(values, ("images", "image"))
        if not isinstance(values, dict):
            return values
        several = {n: tuple(v) if isinstance(v, list | tuple) else (v,) for n, v in values.items() if n in _NAMES}
        return {**values, **{n: v for n, v in several.items() if v != (None,)}}


_NAMES = ("images", "image")


def _units(*before: Node, last: Node) -> tuple[Node, ...]:
    """What is done for an edit, between the units that show the pictures and encode the instruction and the last."""
    return (
        *before,
        edited_size.renamed(edited_size="size"),
        prompt_mask,
        copied_latents,
        noise_source,
        noise,
        grids,
        all_sigmas.renamed(all_sigmas="sigmas"),
        pure_noise.renamed(pure_noise="latents"),
        Denoise(velocity, guidance=guidance, once=[beside, ready, times], noise_source="noise_source", cache="cache"),
        pixels,
        last,
    )


class EditComponents(Components):
    """What a pipeline of Qwen-Image-Edit is made of."""

    processor: Qwen2VLProcessor


class QwenImageEditPipeline(EditComponents):
    """Changes a picture as an instruction says."""

    units = _units(shown, instructed_embeds.renamed(instructed_embeds="prompt_embeds"), last=image)
    __call__ = takes(EditInputs)


class QwenImageEditPlusPipeline(EditComponents):
    """Makes a picture of one or several as an instruction says."""

    units = _units(
        shown_several,
        numbered_embeds.renamed(numbered_embeds="prompt_embeds"),
        last=finished.renamed(finished="image"),
    )
    __call__ = takes(EditPlusInputs)
