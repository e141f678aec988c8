"""Step caches as JSON: how a recipe records them, and how a text names one."""

from collections.abc import Mapping
from typing import Any

from calotype.errors import InputError
from calotype.sampling.caching.policy import StepCache
from calotype.sampling.guidance.recorded import made_of, to_json

METHODS: Mapping[str, str] = {
    "FirstBlockCache": "first_block",
    "MagCache": "magnitude",
    "TaylorCache": "taylor",
    "TeaCache": "tea",
}
"""The step caches that a text can name, and the module of each in this package."""

__all__ = ["METHODS", "from_json", "read_cache", "to_json"]


def from_json(value: Mapping[str, Any]) -> StepCache:
    """The step cache that `to_json` wrote; fields that have a default may be left out.

    Raises:
        InputError: no such method, an unknown or missing field, or a value that the step cache does not take.
    """
    cache: StepCache = made_of("cache", value, "calotype.sampling.caching", METHODS)
    return cache


def read_cache(value: Any) -> StepCache:
    """The step cache that a value is or describes. Raises the validation error that says what is wrong."""
    from pydantic_core import PydanticCustomError

    if isinstance(value, Mapping):
        try:
            return from_json(value)
        except InputError as error:
            raise PydanticCustomError("cache", "{problem}", {"problem": str(error)}) from None
    if not isinstance(value, StepCache):
        raise PydanticCustomError(
            "cache",
            "must be a step cache, such as FirstBlockCache(threshold=0.1) or {example}, got {found}",
            {"example": '{"method": "FirstBlockCache", "threshold": 0.1}', "found": repr(value)[:60]},
        )
    return value
