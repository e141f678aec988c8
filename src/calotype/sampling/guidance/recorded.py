"""Guidance policies as JSON: how a recipe records them, and how a text names one."""

import importlib
from collections.abc import Mapping
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


def to_json(policy: Guidance) -> dict[str, Any]:
    """A policy as JSON: `{"method": "APG", "scale": 5.0, ...}`. One of another class is told by its name and fields."""
    own: Any = policy  # a protocol is no dataclass, a class that follows it may be one
    known = fields(own) if is_dataclass(own) else ()
    return {"method": type(own).__name__} | {f.name: _plain(getattr(own, f.name)) for f in known}


def from_json(value: Mapping[str, Any]) -> Guidance:
    """The policy that `to_json` wrote; fields that have a default may be left out.

    Raises:
        InputError: no such method, an unknown or missing field, or a value that the policy does not take.
    """
    rest = dict(value)
    method = rest.pop("method", None)
    if method not in METHODS:
        near = did_you_mean(str(method), METHODS) if method is not None else ""
        raise InputError(sentences(f"guidance has no method {method!r}{near}", f"The methods are {', '.join(METHODS)}"))
    made: Any = getattr(importlib.import_module(f"calotype.sampling.guidance.{METHODS[method]}"), method)
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(made)}
    for name in rest:
        if name not in known:
            takes = f"It takes {', '.join(known) or 'nothing'}"
            raise InputError(sentences(f"guidance {method} has no {name!r}{did_you_mean(name, known)}", takes))
    if missing := [name for name, required in known.items() if required and name not in rest]:
        raise InputError(f"guidance {method} needs {' and '.join(missing)}")
    policy: Guidance = made(**{name: _value(part) for name, part in rest.items()})
    return policy


def _plain(value: Any) -> Any:
    if isinstance(value, Guidance):
        return to_json(value)
    return list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_json(value)
    return tuple(value) if isinstance(value, list) else value
