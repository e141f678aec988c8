"""Predicting what a call takes, by rehearsing it on tensors that have shapes but no data."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from calotype.errors import CalotypeError
from calotype.graph.cells import Cells
from calotype.graph.memo import fingerprint, knowable
from calotype.graph.run import Run
from calotype.memory.crossing import replaced
from calotype.memory.imagined import asks_for_data, has_data
from calotype.memory.passes import Key, Passes
from calotype.memory.peak import StorageWatch, imagined
from calotype.pipelines.memory.rehearsed_networks import RehearsedNetwork, can_be_rehearsed
from calotype.pipelines.pictures import is_picture
from calotype.sampling.denoise import Denoise

if TYPE_CHECKING:
    from calotype.memory.groups import Group

logger = logging.getLogger(__name__)

REMEMBERED = 64
"""How many rehearsals a memory remembers."""

REMEMBERED_NETWORKS = 256
"""How many kinds of calls of networks, about."""


class Unmoved:
    """Memory for a rehearsal: every component stays where it is."""

    def hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> AbstractContextManager[None]:
        return nullcontext()


class Rehearsed(NamedTuple):
    """What a rehearsal shows of each node: the most bytes of values that live while it runs, those of wires included,
    how often it passes through groups of layers, and the most scores that its attention makes at once; and the bytes
    that move between devices, by wire and reader."""

    computed: tuple[int, ...]
    passes: tuple[Mapping[Key, int], ...]
    scores: tuple[int, ...]
    crossed: Mapping[tuple[str, str], int] = MappingProxyType({})


def rehearse(
    run: Run,
    components: Mapping[str, Any],
    groups: "Mapping[str, Sequence[Group]] | None" = None,
    known: "Known | None" = None,
) -> Rehearsed | None:
    """Every unit is rehearsed once, a loop for as many steps as it takes to see all branches.

    Scratch memory inside a kernel is not seen. None where a unit before the last asks for data, but for one that makes
    pictures after which no network runs, or fails in another way, which is logged, or one is impure and so cannot be
    rehearsed.

    Args:
        groups: the groups of layers to count passes through, of each component.
        known: what was rehearsed before with the same components: a loop is not rehearsed again, nor what comes after
            it, where all that they can see has the shapes that it had then, as with other words of as many tokens.

    Raises:
        CalotypeError: a unit did, which it would in the call too.
    """
    modules = {name: c for name, c in components.items() if isinstance(c, torch.nn.Module)}
    weights = [t for m in modules.values() for t in (*m.parameters(), *m.buffers())]
    networks = frozenset(modules)
    passes = Passes(groups or {})
    with torch.no_grad(), imagined(weights) as watch, passes.watching():
        if known is not None:
            run.stand_in(_standing_in(components, groups or {}, known, (watch, passes)))
        return _Rehearsal(run, networks, watch, passes, known).rest(0)


def _standing_in(
    components: Mapping[str, Any],
    groups: "Mapping[str, Sequence[Group]]",
    known: "Known",
    rehearsal: tuple[StorageWatch, Passes],
) -> dict[str, RehearsedNetwork]:
    """The networks of a call as a rehearsal calls them, which remembers what they give."""
    for oldest in list(known.networks)[:-REMEMBERED_NETWORKS]:
        known.networks.pop(oldest, None)
    found = {}
    for name, generation in known.generations.items():
        if can_be_rehearsed(network := components[name]):
            about = name, generation, tuple(group.name for group in groups.get(name, ()))
            found[name] = RehearsedNetwork(network, *rehearsal, known.networks, about)
    return found


class Known:
    """Rehearsals that are remembered in a table, those that were asked for last.

    Args:
        table: by what they depend on.
        networks: what networks gave in them.
        about: what every rehearsal here depends on besides values and components: what is wanted of them.
        generations: of the components that are used, by name.
    """

    def __init__(
        self,
        table: dict[Hashable, Any],
        networks: dict[Hashable, Any],
        about: Hashable,
        generations: Mapping[str, Hashable],
    ) -> None:
        self.table, self.networks, self.generations = table, networks, generations
        self.about = about, tuple(generations.items())

    def get(self, key: Hashable, make: Callable[[], Rehearsed | None]) -> Rehearsed | None:
        """What is remembered under a key, or what `make` returns; remembered where it can be met again."""
        key = self.about, key
        try:
            found = self.table.pop(key)  # to be the latest again
        except KeyError:
            found = make()
        if knowable(key):
            self.table[key] = found
            for oldest in list(self.table)[:-REMEMBERED]:
                self.table.pop(oldest, None)
        return found  # type: ignore[no-any-return]


class _Rehearsal:
    """One rehearsal, which goes from node to node."""

    def __init__(
        self, run: Run, networks: frozenset[str], watch: StorageWatch, passes: Passes, known: Known | None
    ) -> None:
        self.run, self.networks, self.watch, self.passes, self.known = run, networks, watch, passes, known

    def rest(self, position: int) -> Rehearsed | None:
        """What the node at this position shows, and those after it."""
        nodes, run = self.run.plan.nodes, self.run
        if position == len(nodes):
            return Rehearsed((), (), (), {} if run.edges is None else dict(run.edges.foreseen))
        run.position = position
        if self.known is None or not nodes[position].node.is_loop:
            return self._rest_anew(position)
        return self.known.get(self._seen(), lambda: self._rest_anew(position))

    def _rest_anew(self, position: int) -> Rehearsed | None:
        node, run, watch = self.run.plan.nodes[position].node, self.run, self.watch
        watch.peak, watch.scores = watch.live, 0
        if node.impure:
            return None
        try:
            if isinstance(node, Denoise):
                counted = _rehearse_loop(node, run, self.passes)
            else:
                list(run.perform(node))
                counted = self.passes.taken()
        except CalotypeError:
            raise
        except Exception as error:
            is_last = position + 1 == len(run.plan.nodes)  # which makes pictures or files, after its tensors
            if not asks_for_data(error):
                _warn(node.name, error, is_last)
            if not is_last:
                return self._pictures(position) if asks_for_data(error) else None
            counted = self.passes.taken()
        computed, scores = watch.peak, watch.scores
        if (rest := self.rest(position + 1)) is None:
            return None
        return Rehearsed((computed, *rest.computed), (counted, *rest.passes), (scores, *rest.scores), rest.crossed)

    def _pictures(self, position: int) -> Rehearsed | None:
        """What a node shows that made pictures of its tensors, and those after it where no network takes part: they
        work on pictures. None of any other."""
        nodes, edges = self.run.plan.nodes, self.run.edges
        later = nodes[position + 1 :]
        if not all(map(is_picture, nodes[position].node.writes.values())):
            return None
        if any(node.node.impure or node.components & self.networks for node in later):
            return None
        computed = (self.watch.peak, *(self.watch.live for _ in later))
        passes = (self.passes.taken(), *(Counter[Key]() for _ in later))
        foreseen = {} if edges is None else dict(edges.foreseen)
        return Rehearsed(computed, passes, (self.watch.scores, *(0 for _ in later)), foreseen)

    def _seen(self) -> Hashable:
        """All that the present node and those after it can see, the components aside: values, but for the seed, and of
        tensors that are only imagined their shapes."""
        run, plan = self.run, self.run.plan
        nodes = plan.nodes[run.position :]
        wanted = {wire for n in nodes for wire in n.active.reads}.union(plan.outputs) & run.wires.keys()
        storages: dict[int, int] = {}
        with _disable_current_modes():
            wires = tuple((wire, _described(wire, run.wires[wire], storages)) for wire in sorted(wanted))
        active = tuple((n.name, n.active.reads, n.active.uses) for n in nodes)
        crossed = () if run.edges is None else tuple(sorted(run.edges.foreseen.items()))
        return active, wires, plan.prompts, plan.images, crossed, self.watch.live, self.passes.last


def _warn(name: str, error: Exception, is_last: bool) -> None:
    """Say of a unit that it fails in its rehearsal: what it computes is not known, and the call may fail as well."""
    what = "what it computes after that is" if is_last else "what this call computes is"
    logger.warning(
        "%s fails while it is rehearsed without data (%s: %s), so that %s not counted in its memory",
        name, type(error).__name__, error, what,
    )  # fmt: skip


def _described(wire: str, cells: Cells, storages: dict[int, int]) -> Hashable:
    """The values of a wire, of which equal ones are known by their keys. `storages` numbers those that were met."""

    def described(tensor: torch.Tensor) -> Any:
        if has_data(tensor):
            return tensor
        number = storages.setdefault(tensor.untyped_storage()._cdata, len(storages))
        numbers = number, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.requires_grad
        # a constant that was made of numbers, which code may look at
        return numbers, str(tensor.dtype), str(tensor.device), getattr(tensor, "constant", None)

    alike = {key: number for number, key in enumerate(dict.fromkeys(cells.keys.values()))}
    values = () if wire == "seed" else tuple(fingerprint(replaced(v, described)) for v in cells.values.values())
    return cells.lift, cells.item, cells.image, tuple((at, alike[key]) for at, key in cells.keys.items()), values


def predict_peak(
    run: Run, components: Mapping[str, Any], budget: int | None, resident: Sequence[int] | None = None
) -> int | None:
    """The most bytes that components and values will hold at once: weights that are on the device, and live tensors.

    `resident` is what the weights take on the device while each node runs, where memory knows it; else it is all of
    them, within the budget. None where the call cannot be rehearsed.
    """
    modules = [c for c in components.values() if isinstance(c, torch.nn.Module)]
    held = sum(t.numel() * t.element_size() for m in modules for t in (*m.parameters(), *m.buffers()))
    weights = resident or [held if budget is None else min(budget, held)] * len(run.plan.nodes)
    found = rehearse(run, components)
    return None if found is None else most(weights, found.computed)


def most(weights: Sequence[int], computed: Sequence[int]) -> int:
    """The peak of a call, from what weights and values take while each node runs."""
    return max((here + live for here, live in zip(weights, computed, strict=True)), default=0)


def _rehearse_loop(node: Denoise, run: Run, passes: Passes) -> Counter[Key]:
    """Rehearse a loop, and say how often all of its steps pass through groups of layers. Steps that predict other
    branches than any that was rehearsed are taken to pass as often for each branch."""
    first: Counter[Key] = Counter()
    steps: list[tuple[int, Counter[Key]]] = []

    def seen(index: int) -> None:
        steps.append((index, passes.taken()))

    active = node.rehearse(run, seen)
    by_branches = {active[index]: counted for index, counted in steps[1:]} or {active[0]: steps[0][1]}
    first = steps[0][1]
    widest = max(by_branches, key=len)
    total = Counter(first)
    for names in active[1:]:
        if names in by_branches:
            total.update(by_branches[names])
        else:
            total.update({key: -(-n * len(names) // len(widest)) for key, n in by_branches[widest].items()})
    return total
