"""How closely a prompt is followed: the inputs, and the unit that makes the guidance policy from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from calotype.described import Field, model_validator
from calotype.errors import InputError, UnusedInput
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.sampling import ClassifierFree, Guidance
from calotype.sampling.guidance.recorded import METHODS, from_json, to_json

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core.core_schema import CoreSchema


class PolicyCodec:
    """Reads a guidance policy from itself or from what JSON says of it, and writes it to JSON."""

    def __get_pydantic_core_schema__(self, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            read_policy, serialization=core_schema.plain_serializer_function_ser_schema(to_json)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: "GetJsonSchemaHandler") -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"method": {"enum": list(METHODS)}},
            "required": ["method"],
            "description": "A guidance policy: its method, and the values that it takes.",
        }


Policy = Annotated[Guidance, PolicyCodec()]
"""A guidance policy among the inputs: `APG(5.0)`, or the same as JSON: `{"method": "APG", "scale": 5.0}`."""


def read_policy(value: Any) -> Guidance:
    """The policy that a value is or describes. Raises the validation error that says what is wrong."""
    from pydantic_core import PydanticCustomError

    if isinstance(value, Mapping):
        try:
            return from_json(value)
        except InputError as error:
            raise PydanticCustomError("guidance", "{problem}", {"problem": str(error)}) from None
    if isinstance(value, type) or not isinstance(value, Guidance):
        raise PydanticCustomError(
            "guidance",
            "must be a guidance policy, such as APG(scale=5.0) or {example}, got {found}",
            {"example": '{"method": "APG", "scale": 5.0}', "found": repr(value)[:60]},
        )
    return value


class GuidanceInputs(Inputs):
    """How closely the prompt is followed."""

    guidance_scale: float = Field(
        default=7.5, ge=0, le=50, description="How closely to follow the prompt; 1 turns guidance off."
    )
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, description="How far to bring back the spread that guidance adds."
    )
    guidance_interval: tuple[float, float] = Field(
        default=(0.0, 1.0), description="The part of the loop that is guided."
    )
    guidance: Policy | None = Field(
        default=None, description='Another guidance than classifier-free: {"method": "APG", "scale": 5.0}.'
    )

    @model_validator(mode="after")
    def _one_guidance(self) -> Self:
        if self.guidance is None:
            return self
        for name in ("guidance_scale", "guidance_rescale", "guidance_interval"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"guidance has values of its own, so {name} has no effect; leave {name} out")
        return self


@unit
def guidance(
    guidance_scale: float,
    guidance_rescale: float,
    guidance_interval: tuple[float, float],
    guidance: Guidance | None,
) -> Guidance:
    """The policy that was given or else classifier-free guidance, with rescale and interval.

    Raises `UnusedInput` for the values of the latter where guidance is off.
    """
    if guidance is not None:
        return guidance
    if guidance_scale == 1 and (guidance_rescale != 0 or guidance_interval != (0.0, 1.0)):
        raise UnusedInput("guidance_rescale and guidance_interval have no effect with guidance_scale=1; leave them out")
    return ClassifierFree(guidance_scale, guidance_rescale, guidance_interval)
