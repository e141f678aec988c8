"""Making the plan of a call: which nodes run, which are skipped or pruned and why, before anything is computed."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from calotype.errors import GraphError, InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.graph.given import check_given, given_prompts
from calotype.graph.graph import Graph, lifted_twins
from calotype.graph.hints import accepts_none
from calotype.graph.inputs import ABSENT, Call
from calotype.graph.plan import Plan, PlannedNode
from calotype.graph.refusals import (
    check_outputs,
    refuse_missing,
    refuse_missing_twins,
    refuse_not_loaded,
    refuse_skipped_outputs,
    refuse_unused,
)


def make_plan(graph: Graph, call: Call, components: Mapping[str, Any]) -> Plan:
    """Decide what a call runs and check that it can.

    Args:
        components: every declared component by name, None where it is not loaded.

    Raises:
        UnknownInput: `outputs` or `given` names a wire that nothing makes.
        MissingInput: a unit that runs reads an input that was left out, or the unit that makes an output is skipped.
        InputError: a given value is wrong, or lists are not equally long.
        UnusedInput: an input was given explicitly, but every unit that reads it is skipped or pruned.
        ComponentNotLoaded: a unit that runs uses a component that is not loaded.
    """
    outputs = call.outputs or graph.outputs
    check_outputs(graph, call, outputs)
    prompts = _count_prompts(graph, call)
    running, skipped = _triggered(graph, call)
    refuse_skipped_outputs(graph, call, outputs, skipped)
    kept, pruned = _live(graph, call, running, outputs)
    refuse_missing(graph, call, kept)
    branches = _branches(graph, call, running)
    refuse_missing_twins(graph, call, kept, branches)
    check_given(graph, call, branches, prompts)
    refuse_unused(graph, call, kept, running, skipped, branches)
    for planned in kept:
        refuse_not_loaded(graph, call, planned, kept, components)
    return Plan(graph.owner, call, tuple(kept), MappingProxyType(skipped), tuple(pruned), tuple(outputs), branches,
                prompts, call.num_images)  # fmt: skip


def _count_prompts(graph: Graph, call: Call) -> int:
    """How many items the lists among the inputs hold, or those given where no input is one; they must agree."""
    lengths = {
        name: len(value)
        for name, value in call.values.items()
        if graph.inputs[name].each and isinstance(value, list)
    } or given_prompts(graph, call)  # fmt: skip
    for name, length in lengths.items():
        if length == 0:
            raise InputError(f"{name} is an empty list; give at least one value")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"lists of inputs must be equally long: {found}")
    return next(iter(lengths.values()), 1)


def _triggered(graph: Graph, call: Call) -> tuple[list[PlannedNode], dict[str, str]]:
    """The nodes that run, given which wires are None; and why each of the others is skipped."""
    absent = {name for name, value in call.values.items() if value is None and name != "seed"}
    absent -= set(call.given)
    running: list[PlannedNode] = []
    skipped: dict[str, str] = {}
    for node in graph.nodes:
        active = node.active(frozenset(absent))
        unrefined = [w for w in node.writes if w not in node.reads]
        if active is None:
            why = node.blockers(frozenset(absent))
            skipped[node.name] = f"{' and '.join(why)} {'is' if len(why) == 1 else 'are'} None"
            absent |= {w for w in unrefined if w not in call.given}
        else:
            running.append(PlannedNode(node, active))
            absent -= {w for w, hint in node.writes.items() if not accepts_none(hint)}
    return running, skipped


def _live(
    graph: Graph, call: Call, running: list[PlannedNode], outputs: tuple[str, ...]
) -> tuple[list[PlannedNode], list[str]]:
    """The nodes that something wanted depends on, walking back from the outputs."""
    live = set(outputs) - set(call.given)
    kept: list[PlannedNode] = []
    pruned: list[str] = []
    for planned in reversed(running):
        node = planned.node
        needed = [w for w in node.writes if w in live]
        if not needed and not (node.impure and not set(node.writes) <= set(call.given)):
            if not any(w in call.given for w in node.writes):
                pruned.append(node.name)
            continue
        if taken := [w for w in node.writes if w in call.given]:
            rest = needed or [w for w in node.writes if w not in call.given]
            raise InputError(
                f"given: {node.name} makes {' and '.join(node.writes)} together, and {' and '.join(rest)} is needed "
                f"too; give {' and '.join(rest)} as well, or leave {' and '.join(taken)} out"
            )
        kept.append(planned)
        live -= {w for w in node.writes if w not in node.reads}
        live |= planned.active.reads - set(call.given)
    return kept[::-1], pruned[::-1]


def _branches(graph: Graph, call: Call, running: list[PlannedNode]) -> tuple[Branch, ...]:
    """The branches of every loop that is not skipped, pruned or not: what a wire holds does not depend on which other
    outputs are asked for."""
    found: dict[str, Branch] = {POSITIVE.name: POSITIVE}
    for planned in running:
        if any(call.values[wire] is ABSENT for wire in planned.node.plan_reads):
            continue  # it is pruned, or the input would have been missed
        for branch in planned.node.branches(call.values, lifted_twins(graph)):
            if found.setdefault(branch.name, branch) != branch:
                raise GraphError(
                    f"{planned.name}: its branch {branch.name!r} is another one in an earlier loop; rename it"
                )
    return tuple(found.values())
