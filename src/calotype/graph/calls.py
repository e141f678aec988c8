"""Reading one call: its values are checked, and what is wrong with them is said. Nobody needs it before a call."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError, create_model

from calotype.errors import InputError, UnknownInput, did_you_mean, sentences
from calotype.graph.hints import accepts_none, bare, item_hint, metadata_of, spell
from calotype.graph.inputs import ABSENT, Call, Inputs, short
from calotype.graph.keywords import LISTS, instead_of


def read_call(model: type[Inputs], values: Mapping[str, Any], *, strict: bool = True) -> Call:
    """Check one call's keyword values.

    Args:
        strict: refuse values that would need a conversion (`steps="20"`); text formats pass False.

    Raises:
        UnknownInput: a name that is not declared, with the nearest that is.
        InputError: a value of the wrong type or out of bounds, with the nearest that is allowed.
    """
    try:
        parsed = model.model_validate(dict(values), strict=strict)
    except ValidationError as error:
        if not all(_left_out(problem) for problem in error.errors()):
            raise _explain(model, error) from None
        try:
            parsed = _lenient(model).model_validate(dict(values), strict=strict)
        except ValidationError as error:  # a check of several inputs runs once all single ones are there
            raise _explain(model, error) from None
    read = {name: getattr(parsed, name) for name in model.model_fields}
    given = dict(read.pop("given") or {})
    outputs = read.pop("outputs")
    if outputs is not None and not outputs:
        raise InputError("outputs is empty; name at least one value, or leave it out for the pipeline's own")
    return Call(read, frozenset(parsed.model_fields_set) & set(read), tuple(outputs) if outputs else None, given)


def _left_out(problem: Any) -> bool:
    """Whether a problem is an input that was left out, and not a part missing within one."""
    return problem["type"] == "missing" and len(problem["loc"]) == 1


@lru_cache(maxsize=64)
def _lenient(model: type[Inputs]) -> type[Inputs]:
    """The same model with required fields that may be absent: whether they are missed depends on the plan. Building it
    takes milliseconds."""
    required = {n: (f.annotation, ABSENT) for n, f in model.model_fields.items() if f.is_required()}
    return create_model(model.__name__, __base__=model, **required)  # type: ignore[call-overload, no-any-return]


def _explain(model: type[Inputs], error: ValidationError) -> InputError:
    names = list(model.model_fields)
    problems = error.errors()
    unknown = [str(p["loc"][0]) for p in problems if p["type"] == "extra_forbidden"]
    if unknown:
        lines = [_unknown(model, name) for name in unknown]
        return UnknownInput(sentences("; ".join(lines), f"The inputs are {', '.join(names)}"))
    wrong = [p for p in problems if not _left_out(p)]
    by_field: dict[str, list[Any]] = {}
    for problem in wrong:
        by_field.setdefault(str(problem["loc"][0]) if problem["loc"] else "inputs", []).append(problem)
    return InputError("; ".join(_sentence(model, name, found) for name, found in by_field.items()))


def _unknown(model: type[Inputs], name: str) -> str:
    if said := instead_of(name, model.model_fields):
        return f"{name!r} is not an input; {said}"
    return f"{name!r} is not an input{did_you_mean(name, model.model_fields)}"


def _sentence(model: type[Inputs], name: str, problems: list[Any]) -> str:
    if name == "outputs" and isinstance(problems[0]["input"], str):
        text = problems[0]["input"]
        return f"outputs is a tuple of names, got the text {text!r}; write outputs=({text!r},)"
    if found := _wrong_item(model, name, problems):
        return found
    problem = problems[-1] if len(problems) > 1 and problems[0]["type"].endswith("_type") else problems[0]
    value, context, kind = problem["input"], problem.get("ctx", {}), problem["type"]
    if kind == "multiple_of":
        step = context["multiple_of"]
        return f"{name} must be a multiple of {step}, got {value}{_nearest_multiple(model, name, value, step)}"
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le"),
              "greater_than": ("more than", "gt"), "less_than": ("less than", "lt")}  # fmt: skip
    if kind in bounds:
        words, key = bounds[kind]
        return f"{name} must be {words} {context[key]}, got {value}"
    if kind in ("too_short", "too_long"):
        words, key = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"{name} must have {words} {context[key]} of them, got {context['actual_length']}"
    if kind == "literal_error":
        options = [o for m in _literals(model.model_fields[name].annotation) for o in get_args(m)]
        near = did_you_mean(str(value), [option for option in options if isinstance(option, str)])
        return f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}{near}"
    if kind == "missing":
        wanted = spell(model.model_fields[name].annotation)
        return f"{name} must be {wanted}, got {type(value).__name__} {short(value)}: a part is missing"
    if name in model.model_fields and (kind.endswith("_type") or kind == "is_instance_of"):
        wanted = spell(model.model_fields[name].annotation)
        advice = f"; {LISTS[name]}" if isinstance(value, list | tuple) and name in LISTS else ""
        return f"{name} must be {wanted}, got {type(value).__name__} {short(value)}{advice}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"


def _wrong_item(model: type[Inputs], name: str, problems: list[Any]) -> str | None:
    """The sentence for items of the wrong type in a list that stands for several prompts; None for other problems."""
    if name not in model.model_fields:
        return None
    hint, each = item_hint(model.model_fields[name].annotation)
    items = [p for p in problems if len(p["loc"]) == 3 and str(p["loc"][1]).startswith("list[")]
    if not each or not items or not (items[0]["type"].endswith("_type") or items[0]["type"] == "is_instance_of"):
        return None
    number, value = items[0]["loc"][-1], items[0]["input"]
    if value is None:
        alone = "; call the pipeline once for those without" if accepts_none(hint) else ""
        return f"{name}[{number}] must be {spell(bare(hint))}, got None{alone}"
    return f"{name}[{number}] must be {spell(hint)}, got {type(value).__name__} {short(value)}"


def _nearest_multiple(model: type[Inputs], name: str, value: Any, step: Any) -> str:
    info = model.model_fields[name]
    attached = (*info.metadata, *metadata_of(info.annotation))
    lowest, highest = (
        next((getattr(m, bound) for m in attached if hasattr(m, bound)), end)
        for bound, end in (("ge", step), ("le", float("inf")))
    )
    low = int(value // step) * step
    first, last = -(-lowest // step) * step, highest // step * step if highest < float("inf") else low + step
    near = sorted({min(max(v, first), last) for v in (low, low + step)})
    best = min(abs(v - value) for v in near)
    return "; nearest is " + " and ".join(str(v) for v in near if abs(v - value) == best)


def _literals(hint: Any) -> Iterable[Any]:
    stripped = bare(hint)
    return [stripped] if get_origin(stripped) is Literal else []
