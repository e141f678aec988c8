"""What the parameters of a unit in the loop receive: from the loop itself, or from outside of it."""

from typing import Any, NewType

from torch import Tensor

from calotype.errors import GraphError
from calotype.graph.branches import Tag
from calotype.graph.hints import bare, fits, spell
from calotype.graph.unit import Unit
from calotype.sampling.steering import Steering
from calotype.sampling.step import Step

Estimate = NewType("Estimate", Tensor)
"""The clean sample [b, ...] that the positive prediction of a step implies: a parameter of this type receives it."""


def outer_parameters(inner: Unit[..., Any]) -> dict[str, Any]:
    """The parameters that come from outside of the loop."""
    return {
        name: hint
        for name, hint in inner.parameters.items()
        if name != "latents" and name != inner.branch_parameter and not _is_given(bare(hint))
    }


def step_parameters(inner: Unit[..., Any]) -> tuple[str, ...]:
    """The parameters that receive the step."""
    return tuple(name for name, hint in inner.parameters.items() if bare(hint) is Step)


def steered_parameters(inner: Unit[..., Any]) -> dict[str, type[Steering]]:
    """The parameters of a predictor that receive what steers it, and of which type."""
    return {name: bare(hint) for name, hint in inner.parameters.items() if is_steering(bare(hint))}


def tag_parameters(inner: Unit[..., Any]) -> list[tuple[str, Any]]:
    """The parameters that receive the branch's tag, and of which type."""
    return [(name, bare(hint)) for name, hint in inner.parameters.items() if is_tag(bare(hint))]


def estimate_parameters(inner: Unit[..., Any]) -> list[str]:
    """The parameters that receive the clean sample."""
    return [name for name, hint in inner.parameters.items() if bare(hint) is Estimate]


def refuse_unsteerable(owner: str, inner: Unit[..., Any], predict: Unit[..., Any]) -> None:
    """Raise `GraphError` where a unit makes nothing that steers, or what the predictor does not take."""
    made = bare(next(iter(inner.returns.values())))
    if not is_steering(made):
        raise GraphError(f"{owner}: {inner.name} makes {spell(made)}, but a unit in `steer` makes a Steering")
    if not any(fits(made, h) for h in predict.parameters.values() if is_steering(bare(h))):
        raise GraphError(
            f"{owner}: {inner.name} steers by {spell(made)}, but {predict.name} has no parameter of that type; add "
            f"`steering: {spell(made)} | None`"
        )


def is_tag(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Tag)


def is_steering(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Steering)


def _is_given(hint: Any) -> bool:
    return hint is Step or hint is Estimate or is_steering(hint) or is_tag(hint)
