"""One run of a `Denoise` node, step by step."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.graph.graph import lifted_twins
from calotype.graph.hints import Pad, accepts_none, metadata_of
from calotype.graph.node import Active
from calotype.graph.unit import Unit
from calotype.sampling.collate import collate, fixed_differs, leaves_of, map_leaves, split_items
from calotype.sampling.guidance.policy import advance
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.noise import NoiseSource, per_item
from calotype.sampling.once import Calls
from calotype.sampling.packing import Form
from calotype.sampling.parameters import (
    estimate_parameters,
    steered_parameters,
    tag_parameters,
)
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
from calotype.sampling.steering import summed
from calotype.sampling.step import Step
from calotype.sampling.together import quicker_together

if TYPE_CHECKING:
    from calotype.graph.events import StepEvent
    from calotype.graph.run import Run
    from calotype.sampling.caching.policy import StepCache
    from calotype.sampling.caching.session import Caching
    from calotype.sampling.denoise import Denoise

Items = Sequence[tuple[int, int]]

_AS_IT_IS = nullcontext()


class Loop:
    """One run of a `Denoise` node: its batch, its branches and its solver state."""

    def __init__(self, node: "Denoise", run: "Run", active: Active) -> None:
        self.node, self.run = node, run
        self.policy = node.policy(run.plan.call.values)
        wanted = {b.name for b in self.policy.branches(lifted_twins(run.graph))}
        self.branches = {b.name: b for b in run.plan.branches if b.name in wanted}
        self.items = run.items_of(sorted(active.reads))
        self.parts = run.components(active.uses)
        self._check_adapters()
        self.scheduler: Scheduler = self.parts[node.scheduler]
        self.levels = self._levels()
        self.after = [u for u in node.after_step if self._triggered(u, active)]
        self.steer = [u for u in node.steer if self._triggered(u, active)]
        self.once = [u for u in node.once.units if self._triggered(u, active)]
        self._made_once: dict[tuple[str, ...] | None, Calls] = {}  # by the branch's adapters
        self._steered = steered_parameters(node.predict)
        self._arguments: dict[tuple[str, ...], dict[Unit[..., Any], dict[str, Any]]] = {}
        self._batches: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        self._after_arguments = [self._unit_arguments(u, POSITIVE) for u in self.after]
        self._objectives = {u: self._unit_arguments(u, POSITIVE) for u in node.objectives if self._triggered(u, active)}
        self._caching = self._cached(run.plan.call.values)
        self._form = Form(None, None)  # until the latents are there

    def steps(self) -> Iterator["StepEvent"]:
        """The steps, each when it is done; while nobody looks at them, they are done and not told."""
        latents = self._collated(self.node.latents, POSITIVE, self.node.reads[self.node.latents])
        self._form = self.node.form(self.parts, latents, self.policy)
        latents = self._form.pack(latents)
        count = len(self.levels)
        states = [self.scheduler.init_state() for _ in leaves_of(latents)]
        guided: list[Any] = [None] * len(states)
        sources = self._noise_sources(len(states))
        for index, step in enumerate(self.levels.steps):
            if self._caching is not None:
                self._caching.begin(step, self.policy.active(step))
            output, guided = (self._drawn if self._objectives else self._guided)(latents, step, guided)
            before = latents
            latents, states = self._advance(latents, output, index, states, sources)
            for inner, arguments in zip(self.after, self._after_arguments, strict=True):
                latents = self._form.pack(self._called(inner, self._form.unpack(latents), arguments, step))
            if index + 1 == count:
                self.run.enter(self.node.latents, split_items(self._form.unpack(latents), len(self.items)), self.items)
            if self.run.watched:
                yield self._event(index, count, latents, before, output)

    def _levels(self) -> NoiseLevels:
        """The noise levels, which all items share. Raises `InputError` where they do not."""
        try:
            levels: NoiseLevels = self._collated(self.node.sigmas, POSITIVE, self.node.reads[self.node.sigmas])
        except InputError:  # mostly as sizes differ, of which what is refined tells more
            self._collated(self.node.latents, POSITIVE, self.node.reads[self.node.latents])
            raise
        return levels

    def _cached(self, inputs: Mapping[str, Any]) -> "Caching | None":
        """The memory of the step cache that the call has, if any."""
        cache: StepCache | None = None if self.node.cache is None else inputs[self.node.cache]
        if cache is not None and self._objectives:
            names = ", ".join(u.name for u in self._objectives)
            raise InputError(f"{names} guides by the gradient of the whole network; leave {self.node.cache} out")
        return None if cache is None else cache.start(len(self.items), self.node.predict.name)

    def _triggered(self, inner: Unit[..., Any], active: Active) -> bool:
        """Whether a unit after the step runs: nothing that it needs is None."""
        if not (frozenset(inner.uses) <= active.uses and self.node._outer(inner).keys() <= active.reads):
            return False
        needed = [w for w in self.node._outer(inner) if w in inner.needs]
        return not any(value is None for w in needed for value in self.run.gather(w, POSITIVE, self.items))

    def _advance(
        self, latents: Any, output: Any, index: int, states: list[Any], sources: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        after: list[Any] = []

        def leaf(x: Tensor, predicted: Tensor) -> Tensor:
            number = len(after)
            moved, state = self.scheduler.advance(x, predicted, self.levels, index, states[number], sources[number])
            after.append(state)
            return moved

        return map_leaves(leaf, latents, output), after

    def _event(self, index: int, count: int, latents: Any, before: Any, output: Any) -> "StepEvent":
        from calotype.graph.events import StepEvent  # loaded by whoever runs the loop

        fork, unpack = self.run.fork(), self._form.unpack

        def denoised() -> Any:
            with torch.no_grad():
                found = map_leaves(lambda x, out: self.scheduler.denoised(x, out, self.levels, index), before, output)
                return unpack(found)

        def preview() -> Mapping[str, Any]:
            with torch.no_grad():
                return fork.fork().preview(self.node.latents, split_items(denoised(), len(self.items))[0])

        reused = self._caching is not None and self._caching.reused
        return StepEvent(self.node.name, index, count, unpack(latents), denoised, preview, reused)

    def _check_adapters(self) -> None:
        """Raise `InputError` for a branch whose adapters cannot run alone."""
        if any(branch.adapters is not None for branch in self.branches.values()):
            from calotype.sampling.branch_adapters import check_adapters  # only policies that name adapters need it

            check_adapters(self.node.name, self.branches.values(), self.parts.values())

    # -- predicting ------------------------------------------------------------------------------------------------

    def _guide(
        self, latents: Any, found: Mapping[str, Any], step: Step, states: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        """The branches' predictions as one, for each part of the latents, and the guidance's state of each."""
        after: list[Any] = []
        reading, form = self.levels.plans[step.index].clean, self._form
        if not form.guided:
            latents, found = form.unpack(latents), {name: form.unpack(one) for name, one in found.items()}
        packed = form.guided and form.packing is not None

        def leaf(x: Tensor, *parts: Tensor) -> Tensor:
            predictions = Predictions(dict(zip(found, parts, strict=True)), x, reading, packed)
            combined, state = advance(self.policy, predictions, step, states[len(after)])
            after.append(state)
            return combined

        guided = map_leaves(leaf, latents, *found.values())
        return guided if form.guided else form.pack(guided), after

    def _guided(self, latents: Any, step: Step, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The guided prediction of a step, and the guidance's states."""
        return self._guide(latents, self._predict(latents, step, self.policy.active(step)), step, states)

    def _drawn(self, latents: Any, step: Step, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The same, drawn towards what the objectives want."""
        from calotype.sampling.objective import gradient, lowered  # only who has objectives needs it

        first, *others = self.policy.active(step)
        reading, level = self.levels.plans[step.index].clean, self.levels.here[step.index]
        unpack = self._form.unpack

        def value(inner: Unit[..., Any], x: Any, clean: Any) -> Any:
            estimates = dict.fromkeys(estimate_parameters(inner), unpack(clean))
            return self._called(inner, unpack(x), {**self._objectives[inner], **estimates}, step)

        positive, slopes = gradient(
            latents, reading, lambda x: self._predict(x, step, (first,))[first],
            [(u.name, partial(value, u)) for u in self._objectives],
        )  # fmt: skip
        found = {first: positive, **self._predict(latents, step, others)}
        output, states = self._guide(latents, found, step, states)
        rest = iter(slopes)
        return map_leaves(lambda out: lowered(out, next(rest), level, reading), output), states

    def _predict(self, latents: Any, step: Step, names: Sequence[str]) -> dict[str, Any]:
        """The prediction on some branches of the step; those of one kind of predictor may share a batch."""
        names = tuple(names)
        shown = map_leaves(lambda t: self.scheduler.model_input(t, self.levels, step.index), latents)
        if names not in self._batches:
            self._batches[names] = self._shared(shown, names)
        found: dict[str, Any] = {}
        for batch in self._batches[names]:
            with self._adapted(batch):
                found |= self._predict_batch(shown, step, batch)
        return found if len(self._batches[names]) == 1 else {name: found[name] for name in names}

    def _shared(self, shown: Any, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The branches by batch: a pure function of the call and the configuration."""
        kinds: dict[Any, list[str]] = {}
        for name in names:
            kinds.setdefault((self.branches[name].tag, self.branches[name].adapters), []).append(name)
        batches: list[tuple[str, ...]] = []
        for alike in map(tuple, kinds.values()):
            with self._adapted(alike):
                together = len(alike) > 1 and self._may_batch(shown, alike)
            batches += [alike] if together else [(name,) for name in alike]
        return batches

    def _adapted(self, names: tuple[str, ...]) -> AbstractContextManager[None]:
        """What runs the adapters that these branches name, where they name any."""
        adapters = self.branches[names[0]].adapters
        if adapters is None:
            return _AS_IT_IS
        from calotype.nn.active_adapters import running  # only policies that name adapters need it

        return running(adapters)

    def _seen(self, branch: Branch) -> Calls:
        """The calls of units that run once, of a branch's adapters."""
        return self._made_once.setdefault(branch.adapters, [])

    def _predict_batch(self, shown: Any, step: Step, names: tuple[str, ...]) -> dict[str, Any]:
        """The prediction for these branches, in one batch."""
        if names not in self._arguments:
            branch = self.branches[names[0]]
            arguments = {u: self._unit_arguments(u, branch) for u in (*self.once, self.node.predict, *self.steer)}
            self._arguments[names] = self.node.once.filled(arguments, self._seen(branch))
        count = len(names)
        if count == 1:
            return {names[0]: self._predict_steered(shown, step, names)}
        output = self._predict_steered(map_leaves(lambda t: torch.cat([t] * count), shown), step, names)
        if isinstance(output, Tensor):
            return dict(zip(names, output.chunk(count), strict=True))
        parts = [map_leaves(lambda t, i=number: t.chunk(count)[i], output) for number in range(count)]
        return dict(zip(names, parts, strict=True))

    def _predict_steered(self, shown: Any, step: Step, names: tuple[str, ...]) -> Any:
        """The prediction for these branches, with what steers it at this step."""
        arguments, predict = self._arguments[names], self.node.predict
        given = arguments[predict]
        made = [self._called(u, self._form.unpack(shown), arguments[u], step) for u in self.steer]
        if self._caching is not None:
            made += self._caching.steering(names)
        if made:
            given = {**given, **summed(self._steered, made)}
        if self._caching is None:
            return self._called(predict, shown, given, step)
        return self._caching.predicted(names, shown, partial(self._called, predict, shown, given, step))

    def _may_batch(self, shown: Any, names: tuple[str, ...]) -> bool:
        """Whether these branches are predicted in one batch, whose arguments are then there."""
        inner = (*self.once, self.node.predict, *self.steer)
        if self.node.batch_branches is False or any(u.branch_parameter is not None for u in inner):
            return False
        if self.node.name in self.run.plan.in_turn:
            return False
        branches = [self.branches[name] for name in names]
        parts = [p for u in inner for p in u.parts(self.parts).values()]
        if self.node.batch_branches is None and not quicker_together(leaves_of(shown), parts):
            return False
        try:
            joined = {u: self._joined(u, branches) for u in inner}
        except InputError:  # the branches' values differ in shape, and no rule evens them out
            if self.node.batch_branches:
                raise
            return False
        if any(values is None for values in joined.values()):
            return False
        arguments = {u: {**(values or {}), **self._unchanging(u, branches[0])} for u, values in joined.items()}
        self._arguments[names] = self.node.once.filled(arguments, self._seen(branches[0]))
        return True

    def _joined(self, inner: Unit[..., Any], branches: Sequence[Branch]) -> dict[str, Any] | None:
        """What a unit takes for all branches in one batch; None where they differ in a value that is no array."""
        each = [self._wire_values(inner, b) for b in branches]
        if any(fixed_differs([values[name] for values in each]) for name in each[0]):
            return None
        return {name: collate(name, [v[name] for v in each], self._rule(inner, name)) for name in each[0]}

    def _unit_arguments(self, inner: Unit[..., Any], branch: Branch) -> dict[str, Any]:
        return self._wire_values(inner, branch) | self._unchanging(inner, branch)

    def _unchanging(self, inner: Unit[..., Any], branch: Branch) -> dict[str, Any]:
        """What the loop itself gives a unit at every step alike: components, the branch, its tag, nothing to steer."""
        known: dict[str, Any] = inner.parts(self.parts)
        if inner is self.node.predict:
            known |= summed(self._steered, ())
        if inner.branch_parameter is not None:
            known[inner.branch_parameter] = branch
        for name, kind in tag_parameters(inner):
            known[name] = branch.tag if isinstance(branch.tag, kind) else None
        return known

    def _wire_values(self, inner: Unit[..., Any], branch: Branch) -> dict[str, Any]:
        values = {}
        for name, hint in self.node.once.outer(inner).items():
            wire = inner.wire(name)
            values[name] = self._collated(wire, branch, self._rule(inner, name))
            if values[name] is None and not accepts_none(hint):
                raise InputError(
                    f"{self.node.name}: {inner.name} needs {wire!r}, which is None on the guidance branch "
                    f"{branch.name!r}; give its negative a value too, or turn guidance off"
                )
        return values

    def _rule(self, inner: Unit[..., Any], name: str) -> Any:
        """The type whose rule makes a batch of a parameter's values: its own, or else that of the wire."""
        hint = inner.parameters[name]
        padded = any(isinstance(m, Pad) for m in metadata_of(hint))
        return hint if padded else self.run.graph.wires[inner.wire(name)]

    def _called(self, inner: Unit[..., Any], latents: Any, arguments: Mapping[str, Any], step: Step) -> Any:
        """The one value that a unit in the loop makes of the latents at a step."""
        given = {"latents": latents, **arguments}
        for name in self.node.step_parameters[inner]:
            given[name] = step
        return inner.result(inner.fn(**given))

    def _collated(self, wire: str, branch: Branch, hint: Any) -> Any:
        return collate(wire, self.run.gather(wire, branch, self.items), hint)

    def _noise_sources(self, count: int) -> list[NoiseSource]:
        """For each part of the latents, noise from generators of the items' own, apart from the initial noise."""
        if self.node.noise_source is not None:
            given = self._collated(self.node.noise_source, POSITIVE, NoiseSource)
            if given is not None:
                return [self._form.drawing(given)] * count
        seeds = self.run.gather("seed", POSITIVE, self.items)
        return [
            self._form.drawing(
                per_item([torch.Generator().manual_seed(_mixed(seed, self.node.name, part)) for seed in seeds])
            )
            for part in range(count)
        ]


def _mixed(seed: int, name: str, part: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}/{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
