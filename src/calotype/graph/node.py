"""What the engine knows of a node: its name, the wires it reads and writes, the components it uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from calotype.graph.branches import Branch

EMPTY: Mapping[str, Any] = MappingProxyType({})

BY_BRANCH = frozenset({"*"})
"""The lift of a wire whose value differs between any two branches, not only by the inputs they negate."""


@dataclass(frozen=True)
class Active:
    """The part of a node that one call runs: the wires it then reads and the components it then uses."""

    reads: frozenset[str]
    uses: frozenset[str]


class Node:
    """One step of a pipeline. `Unit`, `TakeOver` and the sampling loop are the kinds there are.

    Attributes:
        name: what errors, plans and drawings call it.
        reads: type hint of each wire it reads.
        uses: type hint of each component it uses.
        idle: the components among these that it only looks at, for their configuration.
        writes: type hint of each wire it writes.
        impure: it may give another result for the same values, so it is never pruned, memoised or cached.
        random: it draws randomness for each sample, so that training may not cache it.
        is_loop: it denoises; training replaces it by its objective.
        plan_reads: the wires that decide what is planned, which must therefore be inputs.
        may_skip: it may be left out although a wire it needs is None.
        inner: the units that run within it, of a loop.
    """

    name: str
    doc: str = ""
    reads: Mapping[str, Any] = EMPTY
    uses: Mapping[str, Any] = EMPTY
    idle: frozenset[str] = frozenset()
    writes: Mapping[str, Any] = EMPTY
    impure: bool = False
    random: bool = False
    is_loop: ClassVar[bool] = False
    may_skip: bool = True
    plan_reads: frozenset[str] = frozenset()
    inner: "tuple[Node, ...]" = ()

    def active(self, absent: frozenset[str]) -> Active | None:
        """What runs when the `absent` wires are None; None when the node is then skipped."""
        raise NotImplementedError

    def blockers(self, absent: frozenset[str]) -> tuple[str, ...]:
        """The absent wires for which the node is skipped, for explanations."""
        raise NotImplementedError

    def lift(self, lifts: Mapping[str, frozenset[str]]) -> Mapping[str, frozenset[str]]:
        """The inputs with a negative twin that each wire it writes depends on, given those of what it reads."""
        raise NotImplementedError

    def branches(self, inputs: Mapping[str, Any], twins: frozenset[str]) -> tuple["Branch", ...]:
        """The guidance branches it needs, given the call's inputs and the inputs that have a negative twin."""
        return ()


def project(lift: frozenset[str], branch: "Branch") -> Any:
    """The part of a branch that a wire with this lift depends on: branches with equal parts share one value."""
    return branch.name if lift is BY_BRANCH or "*" in lift else branch.negated & lift
