"""Inputs that several families of pipelines take, under the names that the ecosystem has for them."""

from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.inputs import Inputs
from calotype.pipelines.latents import Generator


def refuse_both(values: Any, *pairs: tuple[str, str]) -> Any:
    """The values of a call. Raises `ValueError` where both of a pair, which say the same thing, were given."""
    if isinstance(values, dict):
        for one, other in pairs:
            if values.get(one) is not None and values.get(other) is not None:
                raise ValueError(f"{one} and {other} say the same thing; give one of them")
    return values


class SampledInputs(Inputs):
    """How many pictures, in how many steps, from which noise."""

    num_images: int = Field(
        default=1,
        ge=1,
        validation_alias=AliasChoices("num_images", "num_images_per_prompt"),
        description="How many images to make of each prompt.",
    )
    num_inference_steps: int = Field(default=50, ge=1, le=1000, description="How many denoising steps to take.")
    generator: Generator | None = Field(
        default=None,
        description="Draw all noise from this generator instead of from seeds; such a call cannot be replayed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_of_each(cls, values: Any) -> Any:
        return refuse_both(values, ("num_images", "num_images_per_prompt"), ("generator", "seed"))
