"""Units that run once for a loop: what stays the same from step to step, made on the batch that the loop refines."""

from collections.abc import Mapping, Sequence
from typing import Any

from calotype.errors import GraphError
from calotype.graph.branches import Branch
from calotype.graph.hints import bare, spell
from calotype.graph.unit import Unit
from calotype.sampling.parameters import is_steering, outer_parameters, steered_parameters
from calotype.sampling.steering import Steering, summed
from calotype.sampling.step import Step

Arguments = dict[Unit[..., Any], dict[str, Any]]
Calls = list[tuple[Unit[..., Any], dict[str, Any], Any]]
"""Calls of units: their arguments and what they made."""


class Once:
    """The units that a loop runs before its first step, for each batch of branches.

    A unit reads wires from outside of the loop, collated as the predictor's are, and what units before it made, under
    their names. One that makes a `Steering` contributes to the parameters of that type of the others.

    Args:
        owner: the loop's name.
        units: in the order in which they run, but for those that make a `Steering`, which run first.

    Raises:
        GraphError: a unit reads the latents, the step or the branch, or makes several values, or a `Steering` that no
            other takes.
    """

    def __init__(self, owner: str, units: Sequence[Unit[..., Any]]) -> None:
        for inner in units:
            _refuse_changing(owner, inner)
        steering = [u for u in units if is_steering(_made(u))]
        rest = [u for u in units if u not in steering]
        for inner in steering:
            if not any(_made(inner) in steered_parameters(u).values() for u in rest):
                raise GraphError(
                    f"{owner}: {inner.name} makes {spell(_made(inner))}, which no unit in `once` takes; add a "
                    "parameter of that type"
                )
        self.units = (*steering, *rest)
        self.makes = {wire: hint for u in rest for wire, hint in u.writes.items()}
        """What units in the loop may read, by wire."""

    def outer(self, inner: Unit[..., Any]) -> dict[str, Any]:
        """The parameters of a unit that come from outside of the loop and are not made here."""
        return {n: h for n, h in outer_parameters(inner).items() if inner.wire(n) not in self.makes}

    def without(self, wire: str) -> tuple[Unit[..., Any], ...]:
        """The units that do not read a wire, such as that of noise levels, which training has none of."""
        return tuple(u for u in self.units if wire not in u.reads)

    def filled(self, arguments: Arguments, seen: Calls) -> Arguments:
        """The arguments of the other units, with what these make of theirs.

        Args:
            arguments: of every unit that runs, by unit; those that are missing make None.
            seen: the calls that were made already in this loop: one with the very same arguments is not made again.
        """
        made: dict[str, Any] = {}
        conditions: list[Steering | None] = []
        for inner in self.units:
            if inner not in arguments:
                continue
            given = {**arguments[inner], **self._found(inner, made)}
            given |= summed(steered_parameters(inner), conditions)
            result = _remembered(inner, given, seen)
            if is_steering(_made(inner)):
                conditions.append(result)
            else:
                made[next(iter(inner.writes))] = result
        return {u: {**given, **self._found(u, made)} for u, given in arguments.items() if u not in self.units}

    def _found(self, inner: Unit[..., Any], made: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {n: inner.wire(n) for n in outer_parameters(inner)}
        return {n: made.get(wire) for n, wire in wanted.items() if wire in self.makes}


def _remembered(inner: Unit[..., Any], given: dict[str, Any], seen: Calls) -> Any:
    for known, before, result in seen:
        if known is inner and before.keys() == given.keys() and all(before[n] is given[n] for n in given):
            return result
    (result,) = inner.results(inner.fn(**given)).values()
    seen.append((inner, given, result))
    return result


def _made(inner: Unit[..., Any]) -> Any:
    return bare(next(iter(inner.returns.values())))


def _refuse_changing(owner: str, inner: Unit[..., Any]) -> None:
    if len(inner.returns) > 1:
        raise GraphError(
            f"{owner}: {inner.name} makes {', '.join(inner.returns)}, but a unit in `once` makes one value"
        )
    for name, hint in inner.parameters.items():
        if name == "latents" or bare(hint) in (Step, Branch):
            raise GraphError(
                f"{owner}: {inner.name} runs once for the loop, so it cannot read {name!r}, which changes within it"
            )
