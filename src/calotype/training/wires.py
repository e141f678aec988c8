"""What training takes from a pipeline's graph: its loop, what the loop should arrive at, and what its predictor reads.

The objective takes the place of the loop, of its noise levels and of what it starts from. Everything else is made by
the very units that inference runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from calotype.errors import ComponentError, GraphError, InputError, MissingInput, did_you_mean
from calotype.graph.branches import POSITIVE
from calotype.graph.given import check_given, check_names
from calotype.graph.hints import bare, members
from calotype.graph.inputs import ABSENT, RESERVED, Call
from calotype.graph.node import Node
from calotype.graph.plan import Plan, PlannedNode
from calotype.graph.run import Run
from calotype.graph.split import divided
from calotype.graph.unit import Unit
from calotype.paths import path_of
from calotype.pipelines.latents import CleanLatents, Noise
from calotype.pipelines.pictures import is_picture
from calotype.sampling.denoise import Denoise
from calotype.training.unopened import Unopened, opened

if TYPE_CHECKING:
    from calotype.graph.graph import Graph
    from calotype.pipelines.base import DiffusionPipeline


@dataclass(frozen=True)
class TrainedWires:
    """What an objective needs of each item.

    Attributes:
        loop: the loop whose predictor is trained.
        clean: the wire that holds the data, as the loop should leave it.
        conditions: what the predictor and what steers it read from outside of the loop, with types.
        live: nodes that must run in every step: they use trained components, or are random.
        cached: nodes that need to run once only.
        stored: the wires that pass from the cached nodes to the live ones and to the loop.
        components: the components that every step uses.
    """

    loop: Denoise
    clean: str
    conditions: Mapping[str, Any]
    live: tuple[Node, ...]
    cached: tuple[Node, ...]
    stored: tuple[str, ...]
    components: tuple[str, ...]

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every wire that an item of a batch has a value on."""
        return tuple(dict.fromkeys((self.clean, *self.conditions)))


def trained_wires(
    graph: "Graph", trained: Sequence[str], *, loop: str | None = None, clean: str | None = None, data: bool = True
) -> TrainedWires:
    """What training these components takes from a graph.

    Args:
        trained: names of components.
        loop: which loop, where there are several.
        clean: the wire that holds the data; by default the one of type `CleanLatents` that a unit makes of an input.
        data: whether there is any. Else that wire is asked for a shape alone, and by default it is the noise that a
            call starts from, for which a row needs no picture.

    Raises:
        GraphError: there is no such loop or wire, or nothing tells which is meant.
        ComponentError: a name is no component, or one that the loop's prediction does not depend on.
    """
    node = loop_of(graph, loop)
    wire = clean or (None if data else _noise(graph, node)) or _clean(graph)
    if wire not in {w for n in graph.nodes for w in n.writes} | set(graph.inputs):
        known = [w for n in graph.nodes for w in n.writes]
        raise GraphError(f"clean: {graph.owner} makes no {wire!r}{did_you_mean(wire, known)}")
    conditions = _conditions(node)
    _refuse_useless(graph, node, conditions, trained)
    cached, live = divided(needed(graph, (wire, *conditions)), trained)
    made_once = {w for n in cached for w in n.writes}
    read = {wire, *conditions, *(w for n in live for w in n.reads)}
    uses = {name for n in live for name in n.uses} | {n for u in inner_units(node) for n in u.uses}
    return TrainedWires(
        node, wire, conditions, tuple(live), tuple(cached),
        stored=tuple(w for w in dict.fromkeys(w for n in cached for w in n.writes) if w in made_once & read),
        components=tuple(name for name in graph.components if name in uses),
    )  # fmt: skip


def loop_of(graph: "Graph", name: str | None) -> Denoise:
    """The loop of a name, or the only one. Raises `GraphError` where nothing tells which is meant."""
    loops = {node.name: node for node in graph.nodes if isinstance(node, Denoise)}
    if name is None and len(loops) == 1:
        return next(iter(loops.values()))
    if name is None or name not in loops:
        near = "" if name is None else did_you_mean(name, loops)
        raise GraphError(f"loop: name the loop of {graph.owner} to train{near}; it has {', '.join(loops) or 'none'}")
    return loops[name]


def _clean(graph: "Graph") -> str:
    found = [w for n in graph.nodes for w, h in n.writes.items() if bare(h) is CleanLatents]
    first = list(dict.fromkeys(found))
    if not first:
        raise GraphError(
            f"{graph.owner} makes no CleanLatents of its inputs, so what the loop should arrive at is not known: "
            "insert a unit that makes them of a picture, with pipe.with_units(calotype.training.PICTURES) (in a file: "
            "data: {picture: training_image}), or name a wire with clean="
        )
    return first[0]


def _noise(graph: "Graph", loop: Denoise) -> str | None:
    """The wire of the noise that a loop starts from, which has the shape of what it arrives at, if any: of several that
    which is used last before the loop."""
    noises = {w: None for n in graph.nodes for w, h in n.writes.items() if bare(h) is Noise}
    open_wires = set(loop.reads)
    for node in reversed(graph.nodes[: graph.nodes.index(loop)]):
        if not node.is_loop and not open_wires.isdisjoint(node.writes):
            if found := next((w for w in noises if w in node.reads or w in node.writes), None):
                return found
            open_wires |= set(node.reads)
    return None


def inner_units(loop: Denoise) -> tuple[Unit[..., Any], ...]:
    """The units of a loop that training runs: the predictor, what steers it, and what is made once for them."""
    return (*loop.once.without(loop.sigmas), loop.predict, *loop.steer)


def _conditions(loop: Denoise) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for inner in inner_units(loop):
        for parameter, hint in loop.once.outer(inner).items():
            found.setdefault(inner.wire(parameter), hint)
    return found


def _refuse_useless(graph: "Graph", loop: Denoise, conditions: Iterable[str], trained: Iterable[str]) -> None:
    """Raise `ComponentError` for a component whose gradient would be nothing."""
    useful = {n for u in inner_units(loop) for n in u.uses.keys() - u.idle}
    useful |= {n for node in needed(graph, conditions) for n in node.uses.keys() - node.idle}
    for name in trained:
        if name not in graph.components:
            near = did_you_mean(name, graph.components)
            raise ComponentError(f"component: {graph.owner} has no {name!r} to train{near}")
        if name not in useful:
            other = "; an autoencoder learns with AutoencoderTrainer" if name == "vae" else ""
            raise ComponentError(
                f"component: the prediction of {loop.name} does not depend on {name!r}, so there is nothing to learn; "
                f"it depends on {', '.join(sorted(useful))}{other}"
            )


def needed(graph: "Graph", wanted: Iterable[str], before: Node | None = None) -> list[Node]:
    """The nodes that make these wires, in order; those ahead of a node, where one is given."""
    found: list[Node] = []
    open_wires = set(wanted)
    for node in reversed(_ahead(graph, before)):
        if not node.is_loop and not open_wires.isdisjoint(node.writes):
            found.append(node)
            open_wires |= set(node.reads)
    return found[::-1]


def _ahead(graph: "Graph", node: Node | None) -> Sequence[Node]:
    return graph.nodes if node is None else graph.nodes[: graph.nodes.index(node)]


def read_unopened(pipe: "DiffusionPipeline", inputs: Mapping[str, Any]) -> tuple[Call, dict[str, Path | Unopened]]:
    """An item's inputs as a call reads them, and the pictures that are stored, which are not opened: one pixel stands
    for each.

    Raises:
        InputError: an input is wrong or unknown.
    """
    fields = pipe._graph().inputs
    stored = {n: v for n, v in inputs.items() if n in fields and _is_stored(fields[n].hint, v)}
    files = {n: v if isinstance(v, Unopened) else path_of(v, n) for n, v in stored.items()}
    return pipe._read({"seed": 0, **inputs, **{name: Image.new("RGB", (1, 1)) for name in files}}), files


def _is_stored(hint: Any, value: Any) -> bool:
    """Whether an input's value is the path of a picture, or one that is not read yet."""
    pictures = any(is_picture(member) for member in members(bare(hint)))
    return pictures and (
        isinstance(value, Path | Unopened) or (isinstance(value, str) and not value.startswith("data:"))
    )


def check_item(
    pipe: "DiffusionPipeline",
    wires: TrainedWires,
    trained: Sequence[str],
    name: str,
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Raise `InputError` where an item's inputs are wrong, too few, or make nothing to learn."""
    try:
        call, _ = read_unopened(pipe, inputs)
        call = replace(call, given=dict(given))
        check_names(pipe._graph(), call)
        check_given(pipe._graph(), call, (POSITIVE,), 1)
        plan = plan_item(pipe._graph(), call, wires.wanted, given)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    fields = pipe._graph().inputs
    several = [n for n, value in call.values.items() if fields[n].each and isinstance(value, list) and len(value) > 1]
    if several:
        raise InputError(f"{name}: {', '.join(several)} has several items; a row is one, so give each a row of its own")
    if wires.clean in plan.absent:
        makers = [node.name for node in pipe._graph().makers(wires.clean)]
        why = "; ".join(f"{maker} is skipped because {plan.skipped.get(maker)}" for maker in makers)
        raise InputError(f"{name}: it makes no {wires.clean!r} to learn: {why}")
    if skipped := _without(trained, wires, plan):
        why = "; ".join(f"{unit} is skipped because {reason}" for unit, reason in skipped.items())
        raise InputError(f"{name}: nothing is learned of {' and '.join(trained)} from this row: {why}")


def _without(trained: Sequence[str], wires: TrainedWires, plan: "ItemPlan") -> dict[str, str]:
    """The units that use what is trained and why each is skipped, where all of them are."""
    found: dict[str, str] = {}
    for node in wires.live:
        if not node.uses.keys().isdisjoint(trained):
            if node.name not in plan.skipped:
                return {}
            found[node.name] = plan.skipped[node.name]
    absent = set(plan.absent)
    makers = {wire: node.name for node in (*wires.cached, *wires.live) for wire in node.writes}
    for unit in inner_units(wires.loop):
        blockers = unit.blockers(frozenset(absent))
        if not (unit.uses.keys() - unit.idle).isdisjoint(trained):
            if not blockers:
                return {}
            reasons = (plan.skipped.get(makers.get(wire, ""), f"{wire} is None") for wire in blockers)
            found[unit.name] = ", ".join(dict.fromkeys(reasons))
        if blockers and unit in wires.loop.once.without(wires.loop.sigmas):
            absent |= set(unit.writes)
    return found


@dataclass(frozen=True)
class ItemPlan:
    """The nodes that one item needs for the wires that are wanted, and the wires that are None for it."""

    nodes: tuple[PlannedNode, ...]
    skipped: Mapping[str, str]
    absent: frozenset[str]


def plan_item(
    graph: "Graph", call: Call, wanted: Iterable[str], given: Mapping[str, Any], before: Node | None = None
) -> ItemPlan:
    """Which nodes make the wanted wires of one item, where some values are given. With `before` the wires are those
    that this node reads, which later ones may write again.

    Raises:
        MissingInput: a node needs an input that the item does not have.
    """
    absent = {name for name, value in call.values.items() if value is None}
    running: list[PlannedNode] = []
    skipped: dict[str, str] = {}
    for node in _ahead(graph, before):
        if node.is_loop or set(node.writes) <= given.keys():
            continue
        active = node.active(frozenset(absent - given.keys()))
        if active is None:
            blockers = node.blockers(frozenset(absent))
            skipped[node.name] = f"{', '.join(blockers)} is None"
            absent |= {w for w in node.writes if w not in node.reads}
        else:
            running.append(PlannedNode(node, active))
    open_wires, kept = set(wanted) - given.keys(), list[PlannedNode]()
    for planned in reversed(running):
        if not open_wires.isdisjoint(planned.node.writes):
            kept.append(planned)
            open_wires |= planned.active.reads - given.keys()
    missing = [w for w in open_wires if w in call.values and call.values[w] is ABSENT]
    if missing:
        raise MissingInput(
            f"{', '.join(map(repr, sorted(missing)))} is missing in this row of the data; add a column of that name, "
            "or give it for all rows with inputs="
        )
    return ItemPlan(tuple(reversed(kept)), skipped, frozenset(absent))


def item_values(
    pipe: "DiffusionPipeline", inputs: Mapping[str, Any], wanted: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of one item on the wanted wires, by running the pipeline's units on it. Nothing is remembered.

    Args:
        inputs: of the pipeline, as a call takes them.
        wanted: names of wires.
        given: values to take in place of what units would make.

    Raises:
        InputError: an input is wrong, unknown or missing.
        ComponentNotLoaded: a unit that runs uses a component that is not loaded.
    """
    return values_of(pipe, read_item(pipe, inputs), wanted, given)


def read_item(pipe: "DiffusionPipeline", inputs: Mapping[str, Any]) -> Call:
    """The inputs of one item with its pictures read. Raises `InputError` where one is wrong or unknown."""
    return pipe._read({"seed": 0, **opened(inputs)})


def values_of(
    pipe: "DiffusionPipeline", call: Call, wanted: Sequence[str], given: Mapping[str, Any], before: Node | None = None
) -> dict[str, Any]:
    """As `item_values`, of an item that is read already; with `before` the values that this node reads."""
    plan = plan_item(pipe._graph(), call, wanted, given, before)
    if not plan.nodes:  # the common case where everything is given or of a cache: no engine needs to start
        return {wire: given[wire] if wire in given else _value_of(call, wire) for wire in wanted}
    run = run_of(pipe, call, plan, wanted, given)
    for _ in run.execute():
        pass  # no loop is among them
    return {wire: run.wires[wire].at(POSITIVE, 0, 0) if wire in run.wires else None for wire in wanted}


def run_of(
    pipe: "DiffusionPipeline", call: Call, plan: ItemPlan, wanted: Sequence[str], given: Mapping[str, Any]
) -> Run:
    """What runs the nodes of a plan on one item. Raises `ComponentNotLoaded` where one uses what is not loaded."""
    for planned in plan.nodes:
        _refuse_not_loaded(pipe, planned)
    call = replace(call, given=dict(given), explicit=frozenset(call.explicit - RESERVED))
    owner = pipe._graph().owner
    whole = Plan(owner, call, plan.nodes, plan.skipped, (), tuple(wanted), (POSITIVE,), 1, 1)
    return pipe._run(whole, None)


def _value_of(call: Call, name: str) -> Any:
    """An input of one item; None for a wire that nothing makes."""
    value = call.values.get(name)
    return value[0] if isinstance(value, list) else value


def _refuse_not_loaded(pipe: "DiffusionPipeline", planned: PlannedNode) -> None:
    from calotype.errors import ComponentNotLoaded
    from calotype.graph.hints import accepts_none

    for name in sorted(planned.active.uses):
        if pipe.components.get(name) is None and not accepts_none(planned.node.uses[name]):
            raise ComponentNotLoaded(
                f"{planned.name} needs component {name!r} to prepare the data, but this {type(pipe).__name__} was "
                "loaded without it; load it, or train from a cache that holds what it makes"
            )
