"""Guidance policies as JSON: how a recipe records them, and how a text names one."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from calotype.errors import InputError, did_you_mean, sentences
from calotype.sampling.guidance.policy import Guidance

METHODS: Mapping[str, str] = {
    "APG": "projected",
    "AutoGuidance": "auto",
    "CFGZeroStar": "zero_star",
    "ClassifierFree": "classifier_free",
    "NoGuidance": "policy",
    "NormKept": "wrapped",
    "PerturbedAttention": "perturbed",
    "Rescaled": "wrapped",
    "SkipLayers": "perturbed",
    "Within": "wrapped",
}
"""The policies that a text can name, and the module of each in this package."""


def to_json(policy: Any) -> dict[str, Any]:
    """A policy as JSON: `{"method": "APG", "scale": 5.0, ...}`. One of another class is told by its name and fields."""
    known = fields(policy) if is_dataclass(policy) else ()  # a class that follows the protocol need not be one
    return {"method": type(policy).__name__} | {f.name: _plain(getattr(policy, f.name)) for f in known}


def from_json(value: Mapping[str, Any]) -> Guidance:
    """The policy that `to_json` wrote; fields that have a default may be left out.

    Raises:
        InputError: no such method, an unknown or missing field, or a value that the policy does not take.
    """
    policy: Guidance = made_of("guidance", value, "calotype.sampling.guidance", METHODS)
    return policy


def made_of(what: str, value: Mapping[str, Any], package: str, methods: Mapping[str, str]) -> Any:
    """The value that `{"method": name, field: ...}` describes: of the class of that name in the method's module."""
    rest = dict(value)
    method = rest.pop("method", None)
    if method not in methods:
        near = did_you_mean(str(method), methods) if method is not None else ""
        raise InputError(sentences(f"{what} has no method {method!r}{near}", f"The methods are {', '.join(methods)}"))
    made: Any = getattr(importlib.import_module(f"{package}.{methods[method]}"), method)
    check_fields(what, made, rest)
    required = [f.name for f in fields(made) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in rest]:
        raise InputError(f"{what} {method} needs {' and '.join(missing)}")
    return made(**{name: _value(part) for name, part in rest.items()})


def check_fields(what: str, made: Any, given: Iterable[str], *, apart: Sequence[str] = ()) -> None:
    """Raise `InputError` for a name that is no field of a dataclass, or one of those that are not given like others."""
    known = [f.name for f in fields(made) if f.name not in apart]
    for name in given:
        if name not in known:
            takes = f"It takes {', '.join(known) or 'nothing'}"
            raise InputError(sentences(f"{what} {made.__name__} has no {name!r}{did_you_mean(name, known)}", takes))


def _plain(value: Any) -> Any:
    if isinstance(value, Guidance):
        return to_json(value)
    return list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_json(value)
    return tuple(value) if isinstance(value, list) else value
