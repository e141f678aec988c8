"""What a user of Stable Diffusion may set, in groups that its pipelines are declared with."""

from typing import Annotated, Literal

from calotype.described import Field
from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.pipelines.pictures import Picture
from calotype.pipelines.stable_diffusion.sizes import Side

PromptSyntax = Literal["weighted", "plain"]
"""How prompts are read: with weights in brackets, or as they stand."""


class TextInputs(Inputs):
    """What is drawn."""

    prompt: Each[str] = Field(description="What to draw. (word:1.2) weighs a word more, [word] less; any length.")
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = Field(
        default="", description="What to steer away from."
    )
    prompt_syntax: PromptSyntax = Field(
        default="weighted", description="Whether brackets in prompts are weights, or are meant as they stand."
    )
    clip_skip: int = Field(default=0, ge=0, description="How many of the text encoder's last layers to leave out.")


class PictureInputs(Inputs):
    """What is drawn over, and how large."""

    image: Each[Picture] | None = Field(
        default=None, description="A picture to start from, scaled and cropped to the size."
    )
    strength: float = Field(
        default=0.8, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )
    mask_image: Each[Picture] | None = Field(
        default=None, description="As large as the picture: white may change, black is kept."
    )
    padding_mask_crop: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Draw only the mask's surroundings, so many pixels wide, at the whole size."
    )


class SizeInputs(Inputs):
    """How large the picture is, and in what parts it is encoded and decoded."""

    height: Side | None = Field(default=None, description="In pixels; by default the picture's or the network's own.")
    width: Side | None = Field(default=None, description="In pixels; by default the picture's or the network's own.")
    vae_tile: Annotated[int, Field(ge=64, multiple_of=8)] | None = Field(
        default=None, description="Encode and decode in tiles of so many pixels, which takes less memory; else at once."
    )
