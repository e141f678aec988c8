"""`Inputs`: the single declaration of what a user may set, and the reading of one call into values."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, ForwardRef, NamedTuple

from calotype.described import Described, Field, described_fields
from calotype.errors import GraphError, did_you_mean
from calotype.graph.branches import NegativeOf
from calotype.graph.hints import accepts_none, fits, item_hint, metadata_of, spell

if TYPE_CHECKING:
    from pydantic import ConfigDict
    from pydantic.fields import FieldInfo

MOST_IMAGES = 2**16
"""A call lists its items before it computes any of them: a number that cannot be meant would fill the memory first."""


class Inputs(Described):
    """What every call accepts. A pipeline subclasses it and adds its own fields: name, type, default, bounds, doc.

    A field of type `Each[T]` (`T | list[T]`) may be one value or a list, an item each. A field that is
    `Annotated[T, NegativeOf("prompt")]` is the negative twin of another. Defaults are given as `Field(default=...)` or
    after `=`, where editors see them.

    What checks a call is built at the first one, so that importing a pipeline does not build it.
    """

    model_config: ClassVar["ConfigDict"] = {
        "frozen": True, "extra": "forbid", "arbitrary_types_allowed": True, "strict": True, "defer_build": True,
        "populate_by_name": True,
    }  # fmt: skip

    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = Field(
        default=None, description="Image k of a prompt is drawn with seed + k. Left out, one is drawn and recorded."
    )
    num_images: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = Field(
        default=1, description="How many images to make of each prompt."
    )
    outputs: Sequence[str] | None = Field(
        default=None, description="Names of the values to return, instead of the last unit's."
    )
    given: Mapping[str, Any] | None = Field(
        default=None, description="Values to take in place of what units would make."
    )


RESERVED = frozenset(described_fields(Inputs))


class _Absent:
    """Stands for a required input that was left out, until it is known whether this call reads it."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


class Unreplayable:
    """Marks an input whose value a recipe cannot hold, so that a call that gives it cannot be replayed."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"not": {}, "description": "A value that only Python has, and no JSON."}


class InputField(NamedTuple):
    """One input as the engine sees it: `hint` is the type of one item, `each` whether a list maps over items."""

    name: str
    hint: Any
    each: bool
    required: bool
    default: Any
    doc: str
    twin_of: str | None
    model: type[Inputs]

    @property
    def info(self) -> "FieldInfo":
        """What pydantic says of the field."""
        return self.model.model_fields[self.name]


@dataclass(frozen=True)
class Call:
    """One call, read and checked against `Inputs`: `values` by name, of which `explicit` were given by the caller."""

    values: Mapping[str, Any]
    explicit: frozenset[str]
    outputs: tuple[str, ...] | None
    given: Mapping[str, Any]

    @property
    def num_images(self) -> int:
        return int(self.values["num_images"])

    def seeded(self) -> "Call":
        """The call with a seed drawn where none was given, so that a recipe can repeat it."""
        if self.values["seed"] is not None:
            return self
        import secrets

        return replace(self, values={**self.values, "seed": secrets.randbelow(2**32)})


def fields_of(model: type[Inputs], owner: str = "the pipeline") -> dict[str, InputField]:
    """The declared inputs, the engine's reserved ones included. Raises `GraphError` for a negative twin of nothing, for
    a class that is not one of `Inputs`, for a type that is not found, and for a name that a call cannot take."""
    declared: Any = model
    if not (isinstance(declared, type) and issubclass(declared, Inputs)):
        found = getattr(model, "__name__", None) or repr(model)
        raise GraphError(
            f"{owner}.Inputs must be a subclass of calotype.Inputs, got {found}; write class MyInputs(Inputs): ... and "
            "Inputs = MyInputs"
        )
    described = described_fields(model)
    if "self" in described:
        raise GraphError(f"{model.__name__}: an input cannot be named 'self', which is the pipeline itself; rename it")
    fields: dict[str, InputField] = {}
    for name, field in described.items():
        if isinstance(field.annotation, str | ForwardRef):
            text = getattr(field.annotation, "__forward_arg__", field.annotation)
            raise GraphError(
                f"{model.__name__}.{name}: the type {text!r} is not found; define or import it before the class, and "
                "not for a type checker alone"
            )
        hint, each = item_hint(field.annotation)
        attached = (*field.metadata, *metadata_of(field.annotation))
        twin = next((m.name for m in attached if isinstance(m, NegativeOf)), None)
        fields[name] = InputField(name, hint, each, field.required, field.default, field.description, twin, model)
    for found in fields.values():
        _check_twin(model.__name__, found, fields)
    return fields


def _check_twin(owner: str, field: InputField, fields: Mapping[str, InputField]) -> None:
    if field.twin_of is None:
        return
    if field.twin_of not in fields:
        raise GraphError(
            f"{owner}.{field.name} is the negative of {field.twin_of!r}, which is not an input"
            f"{did_you_mean(field.twin_of, fields)}"
        )
    wanted = fields[field.twin_of].hint
    if not fits(field.hint, wanted):
        raise GraphError(f"{owner}.{field.name} is {spell(field.hint)}, its twin {field.twin_of!r} is {spell(wanted)}")
    if accepts_none(field.hint) and not accepts_none(wanted):
        raise GraphError(
            f"{owner}.{field.name} may be None, but {field.twin_of!r}, which it is the negative of, may not; "
            f'type it {spell(wanted)} and give it a default, such as ""'
        )


def short(value: Any) -> str:
    """A value as text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def signature_of(model: type[Inputs]) -> inspect.Signature:
    """The call signature that a model of inputs stands for: keywords, required ones first."""
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.required else field.default,
            annotation=field.annotation,
        )
        for name, field in described_fields(model).items()
    ]
    parameters.sort(key=lambda p: (p.default is not inspect.Parameter.empty, p.name in RESERVED))
    return inspect.Signature(parameters)


def describe_inputs(model: type[Inputs]) -> str:
    """The inputs as the `Args:` section of a docstring."""
    described = described_fields(model)
    lines = []
    for name, parameter in signature_of(model).parameters.items():
        field = described[name]
        default = "" if field.required else f" (default {short(parameter.default)})"
        lines.append(f"    {name}: {spell(field.annotation)}{default}. {field.description}".rstrip())
    return "Args:\n" + "\n".join(lines)
