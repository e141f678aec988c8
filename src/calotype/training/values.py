"""The base of what describes a run: frozen, validated, and as well a value in Python as a table in a file."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """One part of the description of a run. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
