"""Inputs that several families of pipelines take, under the names that the ecosystem has for them."""

from typing import TYPE_CHECKING, Annotated, Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.inputs import MOST_IMAGES, Inputs
from calotype.pipelines.latents import Generator

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core.core_schema import CoreSchema

    from calotype.sampling.caching import StepCache
else:
    StepCache = Any  # its module is imported by who gives one


class CacheCodec:
    """Reads a step cache from itself or from what JSON says of it, and writes it to JSON."""

    def __get_pydantic_core_schema__(self, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(self._written)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: "GetJsonSchemaHandler") -> dict[str, Any]:
        from calotype.sampling.caching.recorded import METHODS

        return {
            "type": "object",
            "properties": {"method": {"enum": list(METHODS)}},
            "required": ["method"],
            "description": "A step cache: its method, and the values that it takes.",
        }

    @staticmethod
    def _read(value: Any) -> Any:
        from calotype.sampling.caching.recorded import read_cache

        return read_cache(value)

    @staticmethod
    def _written(value: Any) -> Any:
        from calotype.sampling.caching.recorded import to_json

        return to_json(value)


Cache = Annotated[StepCache, CacheCodec()]
"""A step cache among the inputs: `FirstBlockCache(0.1)`, or as JSON: `{"method": "FirstBlockCache", "threshold": 0.1}`.
"""


class CacheInputs(Inputs):
    """What is taken over from step to step."""

    cache: Cache | None = Field(
        default=None,
        description='Take over work of steps before: {"method": "FirstBlockCache", "threshold": 0.1}.',
    )


def refuse_both(values: Any, *pairs: tuple[str, str]) -> Any:
    """The values of a call. Raises `ValueError` where both of a pair, which say the same thing, were given."""
    if isinstance(values, dict):
        for one, other in pairs:
            if values.get(one) is not None and values.get(other) is not None:
                raise ValueError(f"{one} and {other} say the same thing; give one of them")
    return values


def listed(values: Any, *names: str) -> Any:
    """The values of a call, where each of these that was given is a tuple: of a list, or of one value by itself."""
    if not isinstance(values, dict):
        return values
    given = {name: values[name] for name in names if values.get(name) is not None}
    return {**values, **{name: tuple(v) if isinstance(v, list | tuple) else (v,) for name, v in given.items()}}


class SampledInputs(CacheInputs):
    """How many pictures, in how many steps, from which noise."""

    num_images: int = Field(
        default=1,
        ge=1,
        le=MOST_IMAGES,
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
