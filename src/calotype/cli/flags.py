"""Flags from a pipeline's inputs, and the values of a call from flags."""

import enum
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType, get_args, get_origin

import click

from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.graph.inputs import Call, InputField
    from calotype.pipelines.base import DiffusionPipeline

PREFIX = "input_"
NOT_FLAGS = frozenset({"outputs", "given"})
"""What only Python can use: values that are no pictures, and computed values."""


class Json(click.ParamType[Any]):
    """A value of a type that has no better form on a command line."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            return value


def flag_options(fields: "Mapping[str, InputField]", taken: Iterable[str]) -> list[click.Option]:
    """An option for each input that a command line can give. One whose flag is `taken` is called `--input-...`."""
    taken = frozenset(taken)
    found = (_option(field, taken) for name, field in fields.items() if name not in NOT_FLAGS)
    return [option for option in found if option is not None]


def flag_name(name: str, taken: Iterable[str] = ()) -> str:
    """`--guidance-scale` for the input `guidance_scale`."""
    flag = f"--{name.replace('_', '-')}"
    return f"--input-{flag[2:]}" if flag in taken else flag


def _option(field: "InputField", taken: frozenset[str]) -> click.Option | None:
    from calotype.graph.hints import bare
    from calotype.pipelines.pictures import is_picture

    hint, flag = _supertype(bare(field.hint)), flag_name(field.name, taken)
    declarations = [flag, PREFIX + field.name]
    common: dict[str, Any] = {"help": help_text(field), "default": None}
    if hint is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", PREFIX + field.name], **common)
    parts = get_args(hint) if get_origin(hint) is tuple else ()
    if parts and ... not in parts and not field.each and all(_scalar(p) for p in parts):
        return click.Option(declarations, nargs=len(parts), type=tuple(_scalar(p) for p in parts), **common)
    kind = _scalar(hint) or _other(field)
    metavar = "FILE" if is_picture(hint) else None
    if kind is None:
        return None
    return click.Option(declarations, type=kind, multiple=field.each, metavar=metavar, **common)


def _supertype(hint: Any) -> Any:
    while isinstance(hint, NewType):
        hint = hint.__supertype__
    return hint


def _scalar(hint: Any) -> click.ParamType[Any] | None:
    """The command line's type of one plain value; None where it has none."""
    from calotype.pipelines.pictures import is_picture

    hint = _supertype(hint)
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if is_picture(hint):
        return click.Path(path_type=Path)
    if not isinstance(hint, type):
        return None
    if issubclass(hint, enum.Enum):
        return click.Choice(hint)
    if issubclass(hint, Path):
        return click.Path(path_type=Path)
    plain: dict[type, click.ParamType[Any]] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}
    return plain.get(hint)


def _other(field: "InputField") -> click.ParamType[Any] | None:
    """JSON for a type that can be written as JSON; None for one that only Python can make."""
    from pydantic import PydanticSchemaGenerationError, TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema

    from calotype.graph.hints import metadata_of
    from calotype.graph.inputs import Unreplayable

    if any(isinstance(part, Unreplayable) for part in metadata_of(field.info.annotation)):
        return None
    try:
        TypeAdapter[Any](field.info.annotation or Any).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return None
    return Json()


def help_text(field: "InputField") -> str:
    """What an input is for, with its default and bounds: `How many steps.  [default: 24; 1 to 1000]`."""
    notes = [f"default: {shown_default(field)}"] if not field.required and field.default not in (None, "") else []
    notes += ["required"] if field.required else []
    notes += [limits] if (limits := bounds_text(field)) else []
    notes += ["may be repeated"] if field.each and field.twin_of is None else []
    return f"{field.doc}  [{'; '.join(notes)}]".strip() if notes else field.doc


def shown_default(field: "InputField") -> str:
    """A default as it would be typed."""
    if isinstance(field.default, tuple):
        return " ".join(str(part) for part in field.default)
    return str(field.default.value if isinstance(field.default, enum.Enum) else field.default)


def bounds_text(field: "InputField") -> str:
    """The values that an input may have: `1 to 1000`, `multiple of 8`; empty where there is no bound.

    The bounds of an input that may be left out are those of its type: `Annotated[int, Field(ge=8)] | None`.
    """
    from pydantic.fields import FieldInfo

    from calotype.graph.hints import metadata_of

    attached = metadata_of(field.info.annotation)
    spread = (part for m in attached for part in (m.metadata if isinstance(m, FieldInfo) else (m,)))
    found = {
        key: getattr(m, key)
        for m in (*spread, *field.info.metadata)
        for key in ("ge", "gt", "le", "lt", "multiple_of")
        if getattr(m, key, None) is not None
    }
    words = []
    if "ge" in found and "le" in found:
        words.append(f"{found['ge']} to {found['le']}")
    else:
        spelled = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        words += [f"{word} {found[key]}" for key, word in spelled.items() if key in found and abs(found[key]) < 2**31]
    if "multiple_of" in found:
        words.append(f"multiple of {found['multiple_of']}")
    return ", ".join(words)


def given_inputs(fields: "Mapping[str, InputField]", params: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that were given as flags: one value, or a list where a flag was repeated."""
    found = {}
    for name, field in fields.items():
        value = params.get(PREFIX + name)
        if value is None or (field.each and value == ()):
            continue
        if field.each and isinstance(value, tuple):
            value = value[0] if len(value) == 1 else list(value)
        found[name] = value
    return found


def checked(pipeline: "type[DiffusionPipeline]", values: Mapping[str, Any]) -> "Call":
    """The call that these values are, checked against the inputs and the units before anything is loaded.

    Raises `InputError` for a value that is wrong, missing, or that nothing in the call would read.
    """
    from calotype.graph.calls import read_call
    from calotype.graph.planning import make_plan

    call = read_call(pipeline.Inputs, values, strict=False)
    make_plan(pipeline.graph, call, dict.fromkeys(pipeline.graph.components, True))
    return call


def call_inputs(call: "Call") -> dict[str, Any]:
    """The keyword values of a checked call: what was given, converted."""
    return {name: call.values[name] for name in call.values if name in call.explicit}


def as_usage(error: InputError, names: Sequence[str]) -> click.UsageError:
    """An error about a value as one about the command line: `steps must be ...` becomes `--steps must be ...`."""
    text = plain(error)
    for name in names:
        text = re.sub(rf"(^|; )'?{name}'?(?= must| was| is missing|:)", rf"\1{flag_name(name)}", text)
    return click.UsageError(text)


def plain(error: Exception) -> str:
    """An error's text without the advice that is for Python."""
    return re.sub(r"\. (The inputs are|Call \w+ with) .*", "", str(error))
