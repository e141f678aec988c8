"""The base of what describes a run: frozen, validated, and as well a value in Python as a table in a file."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from calotype.configured import explained
from calotype.errors import ConfigError


class Value(BaseModel):
    """One part of the description of a run. Unknown fields are refused.

    Raises:
        ConfigError: a field is unknown, missing or has a value that it does not take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # a checker knows the fields

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise ConfigError(explained(type(self).__name__, type(self), error)) from None

        __init__.__pydantic_base_init__ = True  # a value within another is checked by that one, which says where it is
