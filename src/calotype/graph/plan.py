"""The plan of one call as a value: which nodes run, what they use, what moves where, and the peak of it all.

`planning` makes it, before anything is computed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from calotype.graph.branches import Branch
from calotype.graph.inputs import Call
from calotype.graph.node import Active, Node


@dataclass(frozen=True)
class PlannedNode:
    """A node that a call runs: with which reads and components, how often, and how often the memo answers."""

    node: Node
    active: Active
    runs: int = 1
    hits: int = 0

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def components(self) -> frozenset[str]:
        """The components that must be on the device for it: none when the memo answers every run."""
        return frozenset() if self.hits and self.hits == self.runs else self.active.uses - self.node.idle


class Stay(NamedTuple):
    """Where a component is in a call that has a budget: the bytes that stay on the device while it is used, those that
    are copied there in every pass through it, how often it comes, and where it waits meanwhile: `"disk"` for files that
    it was loaded from, else `"host"`. `moved` are the bytes that come in the whole call, from a device that has
    nothing yet; None where that is not known."""

    stays: int
    streamed: int
    comes: int
    waits: str
    moved: int | None = None

    def __str__(self) -> str:
        often = "" if self.comes == 1 else f", comes {self.comes} times"
        if not self.streamed:
            return f"whole, from the {self.waits}{often}"
        call = "" if self.moved is None else f", {in_bytes(self.moved)} a call"
        return f"{in_bytes(self.stays)} stays, {in_bytes(self.streamed)} a pass from the {self.waits}{often}{call}"


class Edge(NamedTuple):
    """A value that moves: `reader` runs on `target`, and what it reads from `wire` is made on `source`."""

    wire: str
    reader: str
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.wire}, from {self.source} to {self.target} for {self.reader}"


@dataclass(frozen=True)
class Route:
    """Where the nodes of a call run.

    Attributes:
        nodes: the device of each node, by name; one whose values come from the caller alone is not among them.
        edges: the values that move, in the order of the nodes that read them.
    """

    nodes: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    @property
    def is_split(self) -> bool:
        """Whether nodes run on several devices."""
        return len(set(self.nodes.values())) > 1


@dataclass(frozen=True)
class Plan:
    """What one call will do. `skipped` names each triggered unit that stays out, with the wires that are None;
    `pruned` the units whose results nothing reads. Sizes are in bytes.

    Where there is a budget, `computed` are the most bytes of values that live while each node runs, `passes` how often
    each node passes through groups of layers, `moved` the bytes of weights that come to the device for each node, by
    name, and `chosen` says in words what the call does another way than it would without a budget, as nothing less
    fits: `in_parts` names the nodes whose attention is computed a few heads or rows at a time, `in_turn` the loops
    whose branches do not share a batch. `scores` is the most numbers that the attention of each node makes at once.
    `computed` is None where it is not known.
    `layouts` says of components how their maps lie in memory, where that was chosen, and why.
    `route` says which device each node runs on, where that is not the CPU alone, and `crossed` the bytes that move
    between devices, by wire and reader.
    """

    owner: str
    call: Call
    nodes: tuple[PlannedNode, ...]
    skipped: Mapping[str, str]
    pruned: tuple[str, ...]
    outputs: tuple[str, ...]
    branches: tuple[Branch, ...]
    prompts: int
    images: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, Stay] = field(default_factory=dict)
    computed: tuple[int, ...] | None = None
    passes: tuple[Mapping[tuple[str, str], int], ...] | None = None
    moved: Mapping[str, int] = field(default_factory=dict)
    scores: tuple[int, ...] = ()
    in_parts: frozenset[str] = frozenset()
    in_turn: frozenset[str] = frozenset()
    chosen: tuple[str, ...] = ()
    layouts: Mapping[str, str] = field(default_factory=dict)
    route: Route | None = None
    crossed: Mapping[tuple[str, str], int] | None = None
    _predict: Callable[[], int | None] = field(default=lambda: None, repr=False)
    _crossed: Callable[[], Mapping[tuple[str, str], int] | None] = field(default=lambda: None, repr=False)
    _predict_each: Callable[[], Mapping[str, int] | None] = field(default=lambda: None, repr=False)

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the call uses, in the order it needs them first."""
        return tuple(dict.fromkeys(name for n in self.nodes for name in sorted(n.components)))

    @property
    def uses(self) -> tuple[str, ...]:
        """The components that the call reads anything of: also those that the memo answers for, or of which it reads
        the settings alone."""
        return tuple(dict.fromkeys(name for n in self.nodes for name in sorted(n.active.uses)))

    @cached_property
    def predicted_peak(self) -> int | None:
        """The most bytes that components and values will hold at once, found by running the call on tensors that have
        shapes but no data. None where a unit needs the data. Worked out when first asked for."""
        return self._predict()

    @property
    def bytes_moved(self) -> int:
        """The bytes of weights that come to the device in the whole call, from one that has nothing yet."""
        return sum(self.moved.values())

    @cached_property
    def predicted_peaks(self) -> Mapping[str, int] | None:
        """The same for each of several devices, by its name; what is computed counts where its node runs."""
        return self._predict_each()

    @property
    def devices(self) -> Mapping[str, str]:
        """The device that each node runs on, by name, where there are several; one that is not there is told nothing
        but values of the caller."""
        return self.route.nodes if self.route is not None and self.route.is_split else {}

    @property
    def edges(self) -> Mapping[Edge, int | None]:
        """The values that move between devices, and how many bytes; None where the call cannot be rehearsed. What has
        no tensors, or was moved for an earlier node already, is not among them where that is known."""
        edges = () if self.route is None else self.route.edges
        crossed = self._crossed() if edges else None
        if crossed is None:
            return dict.fromkeys(edges)
        return {e: crossed[e.wire, e.reader] for e in edges if crossed.get((e.wire, e.reader))}

    @property
    def bytes(self) -> int:
        """The bytes of the components that the call uses."""
        return sum(self.sizes.get(name, 0) for name in self.components)

    def __str__(self) -> str:
        images = f"{self.prompts * self.images} image{'s' if self.prompts * self.images > 1 else ''}"
        lines = [f"{self.owner}: {images}, branches {', '.join(b.name for b in self.branches)}"]
        width = max((len(n.name) for n in self.nodes), default=0)
        for n in self.nodes:
            run = n.active.uses - n.node.idle
            uses = f"uses {', '.join(sorted(run))}" if run else ""
            runs = f"x{n.runs}" if n.runs > 1 else ""
            hits = f"memo {n.hits} of {n.runs}" if n.hits else ""
            moved = f"brings {in_bytes(self.moved[n.name])}" if self.moved.get(n.name) else ""
            on = f"on {self.devices[n.name]}" if n.name in self.devices else ""
            parts = (n.name.ljust(width), on, runs, uses, hits, moved)
            lines.append("  " + "  ".join(part for part in parts if part).rstrip())
        lines += [f"  skipped {name}: {why}" for name, why in self.skipped.items()]
        lines += [f"  pruned {name}: nothing reads what it makes" for name in self.pruned]
        sizes = ", ".join(f"{name} {in_bytes(self.sizes[name])}" for name in self.components if name in self.sizes)
        lines.append(f"  components: {sizes or 'none'}; together {in_bytes(self.bytes)}")
        lines += [f"  {name}: {stay}" for name, stay in self.memory.items()]
        lines += [f"  {name}: {layout}" for name, layout in self.layouts.items()]
        lines += [f"  {choice}" for choice in self.chosen]
        lines += [f"  moves {edge}" + ("" if n is None else f": {in_bytes(n)}") for edge, n in self.edges.items()]
        if self.predicted_peak is not None:
            peaks = (self.predicted_peaks or {}) if self.devices else {}
            each = ", ".join(f"{in_bytes(n)} on {device}" for device, n in peaks.items())
            lines.append(f"  predicted peak: {in_bytes(self.predicted_peak)}{each and f', of which at most {each}'}")
        return "\n".join(lines)


def in_bytes(count: int) -> str:
    """A count of bytes as people write it: `1.5 MiB`."""
    size = float(count)
    for unit_name in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit_name == "GiB":
            return f"{size:.0f} {unit_name}" if unit_name == "B" or size >= 100 else f"{size:.1f} {unit_name}"
        size /= 1024
    raise AssertionError


def with_facts(
    plan: Plan,
    counts: Mapping[str, tuple[int, int]],
    sizes: Mapping[str, int],
    predict: Callable[[], int | None],
) -> Plan:
    """The plan with runs and memo hits of each node, and the bytes of each component, filled in."""
    nodes = tuple(replace(n, runs=counts[n.name][0], hits=counts[n.name][1]) for n in plan.nodes)
    return replace(plan, nodes=nodes, sizes=MappingProxyType(dict(sizes)), _predict=predict)
