"""What a user of Qwen-Image may set, in groups that its pipelines are declared with."""

from typing import Annotated, Any, Self

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.nn.attention_backends import AttentionBackend, attention_backend
from calotype.pipelines.guidance import GuidanceInputs
from calotype.pipelines.inputs import SampledInputs, refuse_both
from calotype.pipelines.pictures import Picture

Side = Annotated[int, Field(ge=16, multiple_of=16)]
"""A height or width in pixels: two latents of eight pixels are one token."""


class TextInputs(Inputs):
    """What is drawn."""

    prompt: Each[str] = Field(description="What to draw, or how to change a picture.")
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = Field(
        default=" ", description="What to steer away from."
    )


class NormedGuidanceInputs(GuidanceInputs):
    """How closely the prompt is followed."""

    guidance_scale: float = Field(
        default=4.0, ge=0, le=50, validation_alias=AliasChoices("guidance_scale", "true_cfg_scale"),
        description="How closely to follow the prompt; 1 turns guidance off.",
    )  # fmt: skip
    guidance_norm: bool = Field(
        default=True, description="Keep the length that every token's prediction has without guidance."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_scale(cls, values: Any) -> Any:
        return refuse_both(values, ("guidance_scale", "true_cfg_scale"))

    @model_validator(mode="after")
    def _norm_of_the_policy(self) -> Self:
        if self.guidance is not None and self.guidance_norm != type(self).model_fields["guidance_norm"].default:
            raise ValueError("guidance is taken as it is, so guidance_norm has no effect; leave guidance_norm out")
        return self


class TileInputs(Inputs):
    """In what parts pictures are encoded and decoded."""

    vae_tile: Annotated[int, Field(ge=64, multiple_of=8)] | None = Field(
        default=None, description="Encode and decode in tiles of so many pixels, which takes less memory; else at once."
    )


class SizeInputs(Inputs):
    """How large the picture is."""

    height: Side | None = Field(default=None, description="In pixels; by default the picture's, or 1328.")
    width: Side | None = Field(default=None, description="In pixels; by default the picture's, or 1328.")


class MaskInputs(Inputs):
    """What of a picture is kept."""

    mask_image: Each[Picture] | None = Field(
        default=None, description="As large as the picture: white may change, black is kept."
    )
    mask_blur: float = Field(
        default=0.0, ge=0, le=256, description="How wide the mask's edge is blended, in pixels of the picture."
    )


class PictureInputs(MaskInputs):
    """What is drawn over."""

    image: Each[Picture] | None = Field(
        default=None, description="A picture to start from, scaled and cropped to the size."
    )
    strength: float = Field(
        default=0.6, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )


class EveryInputs(SampledInputs, TileInputs, NormedGuidanceInputs, TextInputs):
    """What every pipeline of Qwen-Image takes."""

    attention_kernel: AttentionBackend = Field(
        default="sdpa", description="What the transformer's attention runs on; one that is not installed is an error."
    )

    @model_validator(mode="after")
    def _kernel_is_installed(self) -> Self:
        attention_backend(self.attention_kernel)  # which says what is missing, before anything is computed
        return self


class DrawnInputs(SizeInputs, EveryInputs):
    """What a pipeline takes whose pictures may have any size."""


class LayeredInputs(EveryInputs):
    """What a pipeline of layers takes, which are guided without keeping the length of tokens."""

    guidance_norm: bool = Field(
        default=False, description="Keep the length that every token's prediction has without guidance."
    )
