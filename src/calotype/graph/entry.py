"""What is on the wires when a call begins: inputs, given values, and None of units that are skipped."""

from calotype.graph.branches import Branches
from calotype.graph.cells import Cells
from calotype.graph.given import rows_of
from calotype.graph.graph import Graph
from calotype.graph.node import BY_BRANCH
from calotype.graph.plan import Plan


def entered(graph: Graph, plan: Plan) -> dict[str, Cells]:
    """The values that a call begins with, by wire."""
    wires = _inputs(graph, plan)
    wires |= {name: _given(graph, plan, name, value) for name, value in plan.call.given.items()}
    return wires | _absent(graph, plan, wires)


def _inputs(graph: Graph, plan: Plan) -> dict[str, Cells]:
    wires, call = {}, plan.call
    for name, value in call.values.items():
        twin = graph.twins.get(name)
        lists = graph.inputs[name].each and isinstance(value, list)
        lists |= twin is not None and graph.inputs[twin].each and isinstance(call.values[twin], list)
        seeds = name == "seed"
        cells = Cells(frozenset({name}) if twin else frozenset(), lists, seeds and plan.images > 1, seeds)
        for branch in plan.branches if twin else plan.branches[:1]:
            source = call.values[twin] if twin is not None and name in branch.negated else value
            for prompt in range(plan.prompts if lists else 1):
                for image in range(plan.images if cells.image else 1):
                    each = source[prompt] if isinstance(source, list) and lists else source
                    one = each + image if seeds and each is not None else each
                    cells.put(cells.index(branch, prompt, image), one)
        wires[name] = cells
    return wires


def _given(graph: Graph, plan: Plan, name: str, value: object) -> Cells:
    listed = rows_of(graph, name, value)
    rows = [value] if listed is None else listed
    by_image = listed is not None and len(rows) == plan.prompts * plan.images and plan.images > 1
    by_prompt = listed is not None and plan.prompts > 1
    lifted = any(isinstance(row, Branches) for row in rows)
    cells = Cells(BY_BRANCH if lifted else frozenset(), by_prompt, by_image, seeded=False)
    for branch in plan.branches if lifted else plan.branches[:1]:
        for number, row in enumerate(rows):
            prompt, image = divmod(number, plan.images) if by_image else (number, 0)
            one = row[branch.name] if isinstance(row, Branches) else row
            cells.put(cells.index(branch, prompt, image), one)
    return cells


def _absent(graph: Graph, plan: Plan, wires: dict[str, Cells]) -> dict[str, Cells]:
    """Wires of skipped units are None."""
    found = {}
    skipped = (node for node in graph.nodes if node.name in plan.skipped)
    for wire in {w for node in skipped for w in node.writes if w not in wires}:
        found[wire] = cells = Cells(frozenset(), item=False, image=False, seeded=False)
        cells.put(cells.index(plan.branches[0], 0, 0), None)
    return found
