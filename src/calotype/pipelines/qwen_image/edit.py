"""Qwen-Image-Edit: pictures changed, or made of one another, as an instruction says."""

from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.hints import Each
from calotype.graph.node import Node
from calotype.pipelines.autoencoder import image, pasted
from calotype.pipelines.base import takes
from calotype.pipelines.inputs import listed, refuse_both
from calotype.pipelines.latents import keep_known, latents, noise_source
from calotype.pipelines.pictures import Picture
from calotype.pipelines.qwen_image.editing import (
    beside,
    copied_latents,
    edited_size,
    edited_start,
    finished,
    instructed_embeds,
    last_picture,
    numbered_embeds,
    shown,
    shown_several,
)
from calotype.pipelines.qwen_image.inputs import DrawnInputs, MaskInputs
from calotype.pipelines.qwen_image.pipeline import Components
from calotype.pipelines.qwen_image.text import Qwen2VLProcessor
from calotype.pipelines.qwen_image.units import (
    grids,
    guidance,
    masks,
    noise,
    pixels,
    prompt_mask,
    ready,
    sigmas,
    squares,
    times,
    velocity,
)
from calotype.sampling import Denoise


class ReferenceInputs(MaskInputs):
    """How the pictures are shown to the transformer, and what of the last one is kept."""

    image_resize: bool = Field(
        default=True, description="Show the transformer every picture at about 1024 x 1024 pixels; else as it is."
    )
    interpolate_rope: bool = Field(
        default=False, description="Let a picture of another size cover the same ground as the drawn one."
    )
    strength: float = Field(
        default=1.0, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )


class EditInputs(ReferenceInputs, DrawnInputs):
    """What a user may set."""

    image: Each[Picture] = Field(description="The picture to change.")


class EditInpaintInputs(EditInputs):
    """What a user may set."""

    mask_image: Each[Picture] = Field(description="As large as the picture: white may change, black is kept.")
    strength: float = Field(
        default=0.6, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )


class EditPlusInputs(ReferenceInputs, DrawnInputs):
    """What a user may set."""

    images: tuple[Picture, ...] = Field(
        min_length=1, validation_alias=AliasChoices("images", "image"),
        description="The pictures to change or to take things from; the prompt may call them Picture 1, Picture 2.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _several(cls, values: Any) -> Any:
        return listed(refuse_both(values, ("images", "image")), "images", "image")


def _units(*before: Node, changed: str, last: Node) -> tuple[Node, ...]:
    """What is done for an edit, between the units that show the pictures and encode the instruction and the last;
    `changed` is the wire of the picture that a mask is of."""
    return (
        *before,
        edited_size.renamed(edited_size="size"),
        prompt_mask,
        copied_latents,
        noise_source,
        noise,
        edited_start,
        masks.renamed(image=changed),
        grids,
        sigmas,
        latents,
        Denoise(
            velocity,
            guidance=guidance,
            once=[beside, ready, times],
            after_step=[keep_known],
            noise_source="noise_source",
            cache="cache",
            packed=squares,
        ),
        pixels,
        pasted.renamed(pasted="pixels", image=changed),
        last,
    )


class EditComponents(Components):
    """What a pipeline of Qwen-Image-Edit is made of."""

    processor: Qwen2VLProcessor


UNITS = _units(shown, instructed_embeds.renamed(instructed_embeds="prompt_embeds"), changed="image", last=image)
"""What is done for one picture: units of what was not given are skipped."""


class QwenImageEditPipeline(EditComponents):
    """Changes a picture as an instruction says."""

    units = UNITS
    __call__ = takes(EditInputs)


class QwenImageEditInpaintPipeline(EditComponents):
    """Changes a picture within a mask as an instruction says."""

    units = UNITS
    __call__ = takes(EditInpaintInputs)


class QwenImageEditPlusPipeline(EditComponents):
    """Makes a picture of one or several as an instruction says."""

    units = _units(
        shown_several,
        last_picture,
        numbered_embeds.renamed(numbered_embeds="prompt_embeds"),
        changed="last_picture",
        last=finished.renamed(finished="image"),
    )
    __call__ = takes(EditPlusInputs)
