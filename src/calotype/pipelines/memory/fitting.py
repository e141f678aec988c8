"""What a call does to fit into a budget of memory, decided before it runs.

What is computed takes its part of the budget, and weights have the rest: layers that do not fit take turns, which
changes no result. Only where that is not enough does the call go another way, which is equal but for rounding or
blending: attention that holds its scores is computed in parts, then the branches of a loop are predicted in turn, then
pictures are encoded and decoded in tiles.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calotype.errors import ComponentError
from calotype.graph.inputs import Call
from calotype.graph.memo import fingerprint
from calotype.graph.plan import Plan, in_bytes
from calotype.pipelines.memory.prediction import Known, Rehearsed, Unmoved, rehearse
from calotype.pipelines.memory.rehearsed_networks import attention_kernels

if TYPE_CHECKING:
    from calotype.memory.placed import Placed
    from calotype.memory.residency import Residency
    from calotype.pipelines.base import DiffusionPipeline

TILE = "vae_tile"
"""The input that says the side of the tiles, in pixels, that pictures are encoded and decoded in."""

TILES = (1024, 768, 512, 384, 256, 192, 128)
"""The sides that are tried, the largest first: what is decoded in larger tiles is nearer to the whole."""


class Budgeted:
    """Memory for one call, which leaves of the budget what each node computes.

    Args:
        memory: the pipeline's.
        computed: the bytes that each node computes.
    """

    def __init__(self, memory: "Residency | Placed", computed: Sequence[int]) -> None:
        self._memory, self._computed = memory, computed

    def hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> AbstractContextManager[None]:
        """See `Holder.hold`. Which node it is for is known from how many come after it."""
        return self._memory.hold(components, upcoming, self._computed[-1 - len(upcoming)])


def fitted(pipe: "DiffusionPipeline", plan: Plan) -> Plan:
    """The plan within the pipeline's budget, with what it does therefore. Without one, and where what is computed
    cannot be known before, it stays as it is.

    Raises:
        ComponentError: nothing makes a node fit; says the smallest budget that every node fits in.
    """
    fitting = _Fitting(pipe)
    trial = fitting.rehearsed(plan)
    if trial.computed is None:
        for parts in fitting.parts(plan):
            fitting.memory.check(parts)
        return trial
    lacking = fitting.lacking(trial)
    for another_way in (fitting.with_attention_in_parts, fitting.with_branches_in_turn, fitting.with_tiles):
        if not lacking:
            return trial
        trial = another_way(trial, lacking)
        lacking = fitting.lacking(trial)
    fitting.refuse(trial)
    return trial


class _Fitting:
    def __init__(self, pipe: "DiffusionPipeline") -> None:
        self.pipe, self.memory = pipe, pipe._residency
        assert self.memory.budget is not None, "there is nothing to fit into"
        self.components = pipe.components

    def parts(self, plan: Plan) -> list[dict[str, Any]]:
        """The components that must be on the device for each node."""
        uses = [node.active.uses - node.node.idle for node in plan.nodes]
        return [{name: self.components[name] for name in sorted(names)} for names in uses]

    def rehearsed(self, plan: Plan) -> Plan:
        """The plan with what it computes, where that can be known. A call like one before is not rehearsed again."""
        about = type(self.pipe), plan.outputs, plan.in_parts, plan.in_turn, attention_kernels()
        generations = self.pipe._generations.of_all({name: self.components[name] for name in sorted(plan.uses)})
        known = Known(self.memory.rehearsed, self.memory.rehearsed_networks, about, generations)
        found = known.get(self._values(plan), lambda: self._rehearse(plan, known))
        if found is None:
            return plan
        return replace(plan, computed=found.computed, passes=found.passes, scores=found.scores, crossed=found.crossed)

    def _values(self, plan: Plan) -> Hashable:
        """The values of a call, but for the seed."""
        call = plan.call
        values = tuple((name, fingerprint(value)) for name, value in call.values.items() if name != "seed")
        return values, tuple((name, fingerprint(value)) for name, value in call.given.items())

    def _rehearse(self, plan: Plan, known: Known) -> Rehearsed | None:
        used = {name: c for parts in self.parts(plan) for name, c in parts.items() if c is not None}
        run = self.pipe._run(replace(plan, call=plan.call.seeded()), memo=None, holder=Unmoved())
        return rehearse(run, self.components, self.memory.groups(used), known)

    def needs(self, plan: Plan) -> list[int]:
        """The fewest bytes that each node takes: of weights that take turns, and of what it computes."""
        assert plan.computed is not None
        return [self.memory.least(p) + n for p, n in zip(self.parts(plan), plan.computed, strict=True)]

    def lacking(self, plan: Plan) -> list[int]:
        """The positions of the nodes that do not fit."""
        return [at for at, over in enumerate(self.over(plan)) if over > 0]

    def over(self, plan: Plan) -> list[float]:
        """The bytes by which each node exceeds the budget of the device that it runs on."""
        rooms = (self.memory.memory_of(parts).budget for parts in self.parts(plan))
        return [n - (math.inf if room is None else room) for n, room in zip(self.needs(plan), rooms, strict=True)]

    def with_attention_in_parts(self, plan: Plan, lacking: Sequence[int]) -> Plan:
        """The plan with the attention of these nodes a few heads or rows at a time, where it holds its scores and where
        that spares memory."""
        from calotype.nn.attention_parts import PART

        names = {plan.nodes[at].name for at in lacking if plan.scores[at] > PART}
        if not names:
            return plan
        trial = self.rehearsed(replace(plan, in_parts=plan.in_parts | names))
        if trial.computed is None or plan.computed is None:
            return plan
        spared = [at for at in lacking if plan.nodes[at].name in names and trial.computed[at] < plan.computed[at]]
        said = tuple(
            f"{plan.nodes[at].name}: attention in parts, as with all of its scores it computes "
            f"{in_bytes(plan.computed[at])} at a time"
            for at in spared
        )
        names = {plan.nodes[at].name for at in spared}
        return replace(trial, in_parts=plan.in_parts | names, chosen=(*plan.chosen, *said)) if said else plan

    def with_branches_in_turn(self, plan: Plan, lacking: Sequence[int]) -> Plan:
        """The plan with the branches of these loops in turn, where that spares memory."""
        loops = {plan.nodes[at].name: at for at in lacking if plan.nodes[at].node.is_loop}
        if not loops or len(plan.branches) == 1:
            return plan
        trial = self.rehearsed(replace(plan, in_turn=plan.in_turn.union(loops)))
        if trial.computed is None or plan.computed is None:
            return plan
        spared = {name: (plan.computed[at], trial.computed[at]) for name, at in loops.items()}
        said = tuple(
            f"{name}: branches in turn, as a batch of them computes {in_bytes(together)} at a time"
            for name, (together, apart) in spared.items()
            if apart < together
        )
        names = frozenset(name for name, (together, apart) in spared.items() if apart < together)
        return replace(trial, in_turn=plan.in_turn | names, chosen=(*plan.chosen, *said)) if said else plan

    def with_tiles(self, plan: Plan, lacking: Sequence[int]) -> Plan:
        """The plan with the largest tiles that make these nodes fit, or the smallest where none do."""
        tiled = [at for at in lacking if TILE in plan.nodes[at].active.reads]
        values = plan.call.values
        if not tiled or TILE not in values or values[TILE] is not None:
            return plan

        def fits(trial: Plan) -> bool:
            return trial.computed is not None and not set(tiled) & set(self.lacking(trial))

        found, low, high = self._in_tiles(plan, TILES[-1]), 0, len(TILES) - 1
        side = TILES[-1]
        while fits(found) and low < high:  # the largest side lies between those of low and high
            middle = (low + high) // 2
            if fits(trial := self._in_tiles(plan, TILES[middle])):
                found, side, high = trial, TILES[middle], middle
            else:
                low = middle + 1
        if found.computed is None or plan.computed is None:
            return plan
        names = " and ".join(plan.nodes[at].name for at in tiled)
        whole = max(plan.computed[at] for at in tiled)
        said = f"{names}: in tiles of {side} pixels, blended, as the whole picture computes {in_bytes(whole)} at a time"
        return replace(found, chosen=(*plan.chosen, said))

    def _in_tiles(self, plan: Plan, side: int) -> Plan:
        call = plan.call
        values = {**call.values, TILE: side}
        return self.rehearsed(replace(plan, call=Call(values, call.explicit, call.outputs, call.given)))

    def refuse(self, plan: Plan) -> None:
        """Raise `ComponentError` for the node that needs the most, where it is more than the budget."""
        over = self.over(plan)
        if max(over, default=0) <= 0:
            return
        at = over.index(max(over))
        assert plan.computed is not None
        most, memory = self.needs(plan)[at], self.memory.memory_of(self.parts(plan)[at])
        computed, names = plan.computed[at], ", ".join(self.parts(plan)[at]) or "no component"
        stays = self.pipe._request.stays.items()
        kept = [repr(key) for key, said in stays if said == "keep" and key.partition(".")[0] in self.parts(plan)[at]]
        turns = "what is kept there and the largest others" if kept else "the largest layers"
        tiles = "" if plan.call.values.get(TILE) is None else f", in tiles of {plan.call.values[TILE]} pixels"
        raise ComponentError(
            f"{plan.nodes[at].name} computes {in_bytes(computed)} at a time{tiles}, with {names} on "
            f"{memory.device}, which together, with {turns} taking turns, take {in_bytes(most)}, but "
            f"the budget is {in_bytes(memory.budget or 0)}; give {memory.option(most)} (bytes) or more"
            + (f", or do not keep {' and '.join(kept)}" if kept else "")
        )
