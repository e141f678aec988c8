"""Packs of units under names of the caller's, so that a pipeline may have several of one kind."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from calotype.described import declared_methods, model_validator
from calotype.errors import InputError
from calotype.graph.inputs import RESERVED, Inputs
from calotype.graph.unit import Unit


def checked_names(own: str, name: str, inputs: type[Inputs] | None = None, *wires: str) -> dict[str, str]:
    """What each input and wire that begins with `own` is called where it begins with `name`, and `own` itself where
    there are none.

    Raises:
        InputError: `name` is no name.
    """
    if not name.isidentifier() or name.startswith("_"):
        raise InputError(f"what inputs and components are called must be letters, digits and _, got {name!r}")
    fields = () if inputs is None else tuple(n for n in inputs.model_fields if n not in RESERVED)
    return {n: n.replace(own, name, 1) for n in (*fields, *wires)} or {own: name}


def renamed_unit(one: Unit[..., Any], names: Mapping[str, str]) -> Unit[..., Any]:
    """A unit on the wires and components that `names` say."""
    known = {*one.parameters, *one.returns, *one.components}
    return one.renamed(**{n: wire for n, wire in names.items() if n in known and n != wire})


def renamed_inputs(inputs: type[Inputs], names: Mapping[str, str]) -> type[Inputs]:
    """Inputs under the names that `names` say; as they are where those are their own. What checks them still does."""
    if all(n == wire for n, wire in names.items()):
        return inputs
    from pydantic import create_model

    known = inputs.model_fields
    fields: dict[str, Any] = {wire: (known[n].annotation, known[n]) for n, wire in names.items() if n in known}
    checks: dict[str, Any] = {}
    if declared_methods(inputs).keys() - declared_methods(Inputs).keys():
        own = {n: wire for n, wire in names.items() if n in known}
        checks[f"_check_{next(iter(fields))}"] = model_validator(mode="after")(_checked_as(inputs, own))
    return create_model(inputs.__name__, __base__=Inputs, __validators__=checks, **fields)


def _checked_as(inputs: type[Inputs], names: Mapping[str, str]) -> Callable[[Any], Any]:
    """What checks values by the inputs that they are under other names, and speaks of them under their own."""

    def check(self: Any) -> Any:
        given = {n: getattr(self, wire) for n, wire in names.items() if wire in self.model_fields_set}
        try:
            inputs.model_validate(given)
        except ValueError as error:
            errors: Any = getattr(error, "errors", list)()
            said = "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in errors) or str(error)
            raise ValueError(re.sub(r"\w+", lambda word: names.get(word[0], word[0]), said)) from None
        return self

    return check
