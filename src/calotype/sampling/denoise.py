"""`Denoise`: the sampling loop as one node of the graph."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calotype.errors import GraphError, InputError
from calotype.graph.branches import POSITIVE, Branch, Tag
from calotype.graph.graph import lifted_twins
from calotype.graph.hints import Pad, accepts_none, bare, metadata_of
from calotype.graph.node import Active, Node
from calotype.graph.unit import Unit, unit
from calotype.sampling.collate import collate, fixed_differs, leaves_of, map_leaves, split_items
from calotype.sampling.guidance.classifier_free import ClassifierFree
from calotype.sampling.guidance.policy import Guidance, NoGuidance, advance
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.noise import NoiseSource, per_item
from calotype.sampling.once import Calls, Once
from calotype.sampling.parameters import (
    estimate_parameters,
    injected_parameters,
    is_tag,
    refuse_unsteerable,
    steered_parameters,
    tag_parameters,
)
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
from calotype.sampling.steering import BlockReuse, summed
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.graph.run import Run, StepEvent
    from calotype.sampling.caching.policy import StepCache
    from calotype.sampling.caching.session import Caching

Items = Sequence[tuple[int, int]]

BATCHED_ELEMENTS = 2**13
"""On a CPU, branches share one batch while the loop's value has at most this many elements for all items; above it,
running them in turn keeps activations in cache."""


@unit
def classifier_free(guidance_scale: float) -> Guidance:
    """Classifier-free guidance by the input `guidance_scale`."""
    return ClassifierFree(guidance_scale)


@unit
def unguided() -> Guidance:
    """No guidance: the positive branch as it is."""
    return NoGuidance()


class Denoise(Node):
    """Refines `latents` along `sigmas`: predicts once per guidance branch and step, combines, and takes a step.

    Args:
        predict: a unit; it names what it takes. Its parameter `latents` is what the network is shown at this step, a
            parameter of type `Step` tells where the loop is, one of type `Branch` which branch is predicted.
        name: the node's name, where a pipeline has several loops.
        latents: the wire that is refined.
        sigmas: the wire that holds the noise levels to go through.
        scheduler: the component that takes the steps.
        guidance: a unit without components that makes the `Guidance` policy from inputs; it runs in the plan. None
            predicts the positive branch alone.
        after_step: units that refine `latents` after every step (keeping a known part, blending windows).
        steer: units that run before every prediction, on what the network is shown, and make a `Steering` or, at steps
            that they leave alone, None. A parameter of the predictor of that type receives the sum.
        objectives: units that say how far a step's clean sample, their parameter of type `Estimate`, is from what is
            wanted, a number for each item; the prediction moves against its gradient, which goes through the network.
        noise_source: the wire that holds the source of a stochastic solver's fresh noise; by default, or where it is
            None, each item draws from a generator of its own seed.
        around: units that make another policy of the one before, which is their parameter `policy`, and of inputs; one
            whose input is None leaves it as it is. They run in the plan too.
        once: units that run before the first step, for each batch of branches: what stays the same from step to step.
            What they make is for the predictor and the units in `steer`, by name (`calotype.sampling.once`).
        cache: the input that says how steps take over work of steps before (`calotype.sampling.caching`); by default,
            or where it is None, every step computes.
        batch_branches: predict all branches in one batch, or in turn; by default whichever is better for the size.
        optional: the loop may be skipped, which leaves `latents` as they are.

    Raises:
        GraphError: a unit lacks `latents` or makes several values, the guidance unit uses components, the predictor
            does not take what a unit in `steer` makes, or an objective takes no `Estimate`.
    """

    is_loop = True

    def __init__(
        self,
        predict: Unit[..., Any],
        *,
        name: str = "denoise",
        latents: str = "latents",
        sigmas: str = "sigmas",
        scheduler: str = "scheduler",
        guidance: Unit[..., Guidance] | None = classifier_free,
        after_step: Sequence[Unit[..., Any]] = (),
        steer: Sequence[Unit[..., Any]] = (),
        objectives: Sequence[Unit[..., Any]] = (),
        noise_source: str | None = None,
        around: Sequence[Unit[..., Guidance]] = (),
        once: Sequence[Unit[..., Any]] = (),
        cache: str | None = None,
        batch_branches: bool | None = None,
        optional: bool = False,
    ) -> None:
        self.name, self.latents, self.sigmas, self.scheduler = name, latents, sigmas, scheduler
        guidance = guidance or unguided
        self.predict, self.guidance, self.around = predict, guidance, tuple(around)
        self.after_step, self.steer, self.objectives = tuple(after_step), tuple(steer), tuple(objectives)
        self.inner = (predict, *self.steer, *self.objectives, *self.after_step)
        self.once, self.cache = Once(name, once), cache
        self._all = (*self.once.units, *self.inner)
        self.noise_source, self.batch_branches, self.may_skip = noise_source, batch_branches, optional
        self.injected = {u: injected_parameters(u) for u in self.inner}
        self.tagged = {u: tag_parameters(u) for u in self.inner}
        self.doc = predict.doc
        for inner in self.inner:
            if "latents" not in inner.parameters:
                raise GraphError(f"{name}: {inner.name} needs a parameter `latents`, the value that the loop refines")
            if len(inner.returns) > 1:
                raise GraphError(
                    f"{name}: {inner.name} makes {', '.join(inner.returns)}, but a loop takes one value; a value with "
                    "parts is a frozen dataclass"
                )
        for inner in self.steer:
            refuse_unsteerable(name, inner, predict)
        for inner in self.objectives:
            if not estimate_parameters(inner):
                raise GraphError(f"{name}: {inner.name} is an objective; it needs a parameter `estimate: Estimate`")
        for deciding in (guidance, *self.around):
            if deciding.uses:
                raise GraphError(
                    f"{name}: {deciding.name} decides the branches before anything runs, so it has no components"
                )
        self.plan_reads = frozenset(self._plan_reads())
        hint = predict.parameters["latents"]
        self.reads = MappingProxyType(self._all_reads() | {latents: hint, sigmas: NoiseLevels, "seed": int})
        self.uses = MappingProxyType({scheduler: Scheduler} | {n: h for u in self._all for n, h in u.uses.items()})
        self.writes = MappingProxyType({latents: hint})

    def __repr__(self) -> str:
        return f"<loop {self.name}: {self.predict.name} on {self.latents}>"

    def with_more(
        self,
        steer: Sequence[Unit[..., Any]] = (),
        after_step: Sequence[Unit[..., Any]] = (),
        around: Sequence[Unit[..., Guidance]] = (),
        objectives: Sequence[Unit[..., Any]] = (),
        once: Sequence[Unit[..., Any]] = (),
    ) -> "Denoise":
        """The same loop with more units that steer its predictor, refine its value, make another policy or guide."""
        return Denoise(
            self.predict, name=self.name, latents=self.latents, sigmas=self.sigmas, scheduler=self.scheduler,
            guidance=self.guidance, after_step=(*self.after_step, *after_step), steer=(*self.steer, *steer),
            objectives=(*self.objectives, *objectives), noise_source=self.noise_source,
            around=(*self.around, *around), once=(*once, *self.once.units), cache=self.cache,
            batch_branches=self.batch_branches, optional=self.may_skip,
        )  # fmt: skip

    def _plan_reads(self) -> dict[str, Any]:
        """The wires that decide the branches, and what is taken over from step to step."""
        more = {w: h for u in self.around for w, h in u.reads.items() if w != u.wire("policy")}
        return {**self.guidance.reads, **more, **({self.cache: Any} if self.cache else {})}

    def active(self, absent: frozenset[str]) -> Active | None:
        if self.blockers(absent):
            return None
        running = [u for u in self._all if u is self.predict or self._runs(u, absent)]
        reads = {w for u in running for w in self._outer(u)} | self.plan_reads
        uses = {n for u in running for n in u.uses}
        reads |= {self.latents, self.sigmas, "seed"} | ({self.noise_source} if self.noise_source else set())
        return Active(frozenset(reads), frozenset(uses | {self.scheduler}))

    def blockers(self, absent: frozenset[str]) -> tuple[str, ...]:
        needed = [w for w in self._outer(self.predict) if w in self.predict.needs] + [self.latents, self.sigmas]
        return tuple(w for w in needed if w in absent)

    def lift(self, lifts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        return {self.latents: frozenset()}

    def branches(self, inputs: Mapping[str, Any], twins: frozenset[str]) -> tuple[Branch, ...]:
        found = self._policy(inputs).branches(twins)
        _refuse_two_of_a_name(self.name, found)
        self._refuse_tags(found)
        self._refuse_cache(inputs)
        return found

    def _refuse_cache(self, inputs: Mapping[str, Any]) -> None:
        """Raise `InputError` for a step cache that the loop or its predictor cannot work with."""
        cache = None if self.cache is None else inputs[self.cache]
        if isinstance(cache, list):
            raise InputError(f"{self.cache} must be one value for the whole call, got a list: items share a batch")
        if cache is None or cache.reach == "prediction" or BlockReuse in steered_parameters(self.predict).values():
            return
        raise InputError(
            f"{self.cache}: {type(cache).__name__} takes over what a network's blocks give, but {self.predict.name} "
            "offers none; take TaylorCache(of='prediction'), or add `reuse: BlockReuse | None` to a predictor of your "
            "own"
        )

    def _refuse_tags(self, branches: Sequence[Branch]) -> None:
        """Raise `InputError` for a branch that asks for a variant which the predictor does not have."""
        hints = [bare(hint) for hint in self.predict.parameters.values()]
        for branch in branches:
            if isinstance(branch.tag, Tag) and not any(isinstance(branch.tag, h) for h in hints if is_tag(h)):
                kind = type(branch.tag).__name__
                raise InputError(
                    f"{self.name}: the guidance asks for the branch {branch.name!r}, but {self.predict.name} has no "
                    f"parameter of the type {kind}; take another guidance, or add `{kind.lower()}: {kind} | None` to a "
                    "predictor of your own"
                )

    def run(self, run: "Run") -> Iterator["StepEvent"]:
        active = run.plan.nodes[run.position].active
        with ExitStack() as held:
            held.enter_context(run.hold(active.uses))
            for event in _Loop(self, run, active).steps():
                if not run.watched:
                    yield event
                    continue
                held.close()  # who looks on may preview, or wait for long
                yield event
                if event.index + 1 < event.total:
                    held.enter_context(run.hold(active.uses))

    def rehearse(self, run: "Run") -> None:
        """Run only as many steps as show all that a step holds, and leave what they give: for predictions of memory.

        That is until every branch was predicted, and past the first step, which holds nothing of one before.
        """
        loop = _Loop(self, run, run.plan.nodes[run.position].active)
        for event in loop.steps():
            active = loop.policy.active(loop.levels.step(event.index))
            if event.index > 0 and len(active) == len(loop.branches):
                run.enter(self.latents, split_items(event.latents, len(loop.items)), loop.items)
                return

    def _policy(self, inputs: Mapping[str, Any]) -> Guidance:
        policy = self._decided(self.guidance, inputs) or NoGuidance()
        for inner in self.around:
            policy = self._decided(inner, {**inputs, inner.wire("policy"): policy}) or policy
        return policy

    def _decided(self, deciding: Unit[..., Guidance], inputs: Mapping[str, Any]) -> Guidance | None:
        """What a unit that decides the branches makes of the inputs; None where one that it needs is None."""
        values = {}
        for parameter in deciding.parameters:
            wire = deciding.wire(parameter)
            if isinstance(inputs[wire], list):
                raise InputError(f"{wire} must be one value for the whole call, got a list: it decides the branches")
            if inputs[wire] is None and wire in deciding.needs:
                return None
            values[parameter] = inputs[wire]
        return deciding.fn(**values)

    def _all_reads(self) -> dict[str, Any]:
        outer = {w: h for u in self._all for w, h in self._outer(u).items()}
        source = {self.noise_source: NoiseSource | None} if self.noise_source else {}
        return {**outer, **self._plan_reads(), **source}

    def _outer(self, inner: Unit[..., Any]) -> dict[str, Any]:
        """The wires that a unit in the loop reads from outside of it."""
        return {inner.wire(name): hint for name, hint in self.once.outer(inner).items()}

    def _runs(self, inner: Unit[..., Any], absent: frozenset[str]) -> bool:
        return not any(w in absent for w in self._outer(inner) if w in inner.needs)


class _Loop:
    """One run of a `Denoise` node: its batch, its branches and its solver state."""

    def __init__(self, node: Denoise, run: "Run", active: Active) -> None:
        self.node, self.run = node, run
        self.policy = node._policy(run.plan.call.values)
        wanted = {b.name for b in self.policy.branches(lifted_twins(run.graph))}
        self.branches = {b.name: b for b in run.plan.branches if b.name in wanted}
        self.items = run.items_of(sorted(active.reads))
        self.parts = run.components(active.uses)
        self._check_adapters()
        self.scheduler: Scheduler = self.parts[node.scheduler]
        self.levels: NoiseLevels = self._collated(node.sigmas, POSITIVE, node.reads[node.sigmas])
        self.after = [u for u in node.after_step if self._triggered(u, active)]
        self.steer = [u for u in node.steer if self._triggered(u, active)]
        self.once = [u for u in node.once.units if self._triggered(u, active)]
        self._made_once: dict[tuple[str, ...] | None, Calls] = {}  # by the branch's adapters
        self._steered = steered_parameters(node.predict)
        self._arguments: dict[tuple[str, ...], dict[Unit[..., Any], dict[str, Any]]] = {}
        self._together: dict[tuple[str, ...], bool] = {}
        self._after_arguments = [self._unit_arguments(u, POSITIVE) for u in self.after]
        self._objectives = {u: self._unit_arguments(u, POSITIVE) for u in node.objectives if self._triggered(u, active)}
        self._caching = self._cached(run.plan.call.values)

    def steps(self) -> Iterator["StepEvent"]:
        latents = self._collated(self.node.latents, POSITIVE, self.node.reads[self.node.latents])
        count = len(self.levels)
        states = [self.scheduler.init_state() for _ in leaves_of(latents)]
        guided: list[Any] = [None] * len(states)
        sources = self._noise_sources(len(states))
        for index in range(count):
            step = self.levels.step(index)
            if self._caching is not None:
                self._caching.begin(step, self.policy.active(step))
            output, guided = (self._drawn if self._objectives else self._guided)(latents, step, guided)
            before = latents
            latents, states = self._advance(latents, output, index, states, sources)
            for inner, arguments in zip(self.after, self._after_arguments, strict=True):
                latents = _called(inner, latents, {**arguments, **self._injected(inner, step, POSITIVE)})
            if index + 1 == count:
                self.run.enter(self.node.latents, split_items(latents, len(self.items)), self.items)
            yield self._event(index, count, latents, before, output)

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
        from calotype.graph.run import StepEvent  # loaded by whoever runs the loop

        fork = self.run.fork()

        def denoised() -> Any:
            with torch.no_grad():
                return map_leaves(lambda x, out: self.scheduler.denoised(x, out, self.levels, index), before, output)

        def preview() -> Mapping[str, Any]:
            with torch.no_grad():
                return fork.fork().preview(self.node.latents, split_items(denoised(), len(self.items))[0])

        reused = self._caching is not None and self._caching.reused
        return StepEvent(self.node.name, index, count, latents, denoised, preview, reused)

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
        reading = self.levels.plans[step.index].clean

        def leaf(x: Tensor, *parts: Tensor) -> Tensor:
            predictions = Predictions(dict(zip(found, parts, strict=True)), x, reading)
            combined, state = advance(self.policy, predictions, step, states[len(after)])
            after.append(state)
            return combined

        return map_leaves(leaf, latents, *found.values()), after

    def _guided(self, latents: Any, step: Step, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The guided prediction of a step, and the guidance's states."""
        return self._guide(latents, self._predict(latents, step, self.policy.active(step)), step, states)

    def _drawn(self, latents: Any, step: Step, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The same, drawn towards what the objectives want."""
        from calotype.sampling.objective import gradient, lowered  # only who has objectives needs it

        first, *others = self.policy.active(step)
        reading, level = self.levels.plans[step.index].clean, self.levels.here[step.index]

        def value(inner: Unit[..., Any], x: Any, clean: Any) -> Any:
            given = dict.fromkeys(estimate_parameters(inner), clean) | self._injected(inner, step, POSITIVE)
            return _called(inner, x, {**self._objectives[inner], **given})

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
        shown = map_leaves(lambda t: self.scheduler.model_input(t, self.levels, step.index), latents)
        found: dict[str, Any] = {}
        kinds: dict[Any, list[str]] = {}
        for name in names:
            kinds.setdefault((self.branches[name].tag, self.branches[name].adapters), []).append(name)
        for alike in map(tuple, kinds.values()):
            with self._with_adapters(alike[0]):
                if len(alike) > 1 and self._batched(shown, alike):
                    found |= self._predict_batched(shown, step, alike)
                else:
                    found |= {name: self._predict_one(shown, step, name) for name in alike}
        return {name: found[name] for name in names}

    def _seen(self, branch: Branch) -> Calls:
        """The calls of units that run once, of a branch's adapters."""
        return self._made_once.setdefault(branch.adapters, [])

    def _with_adapters(self, name: str) -> AbstractContextManager[None]:
        """What runs the adapters of a branch, where it names some, and no others."""
        adapters = self.branches[name].adapters
        if adapters is None:
            return nullcontext()
        from calotype.nn.active_adapters import running  # only policies that name adapters need it

        return running(adapters)

    def _predict_one(self, shown: Any, step: Step, name: str) -> Any:
        branch = self.branches[name]
        if (name,) not in self._arguments:
            arguments = {u: self._unit_arguments(u, branch) for u in (*self.once, self.node.predict, *self.steer)}
            self._arguments[(name,)] = self.node.once.filled(arguments, self._seen(branch))
        return self._predict_steered(shown, step, (name,), branch)

    def _predict_steered(self, shown: Any, step: Step, names: tuple[str, ...], branch: Branch) -> Any:
        """The prediction for these branches, with what steers it at this step."""
        arguments, predict = self._arguments[names], self.node.predict
        made = [_called(u, shown, {**arguments[u], **self._injected(u, step, branch)}) for u in self.steer]
        if self._caching is not None:
            made += self._caching.steering(names)
        injected = self._injected(predict, step, branch) | summed(self._steered, made)
        call = partial(_called, predict, shown, {**arguments[predict], **injected})
        return call() if self._caching is None else self._caching.predicted(names, shown, call)

    def _predict_batched(self, shown: Any, step: Step, names: tuple[str, ...]) -> dict[str, Any]:
        several = map_leaves(lambda t: torch.cat([t] * len(names)), shown)
        output = self._predict_steered(several, step, names, self.branches[names[0]])
        if isinstance(output, Tensor):
            return dict(zip(names, output.chunk(len(names)), strict=True))
        size = len(self.items)
        return {
            name: map_leaves(lambda t, i=number: t[i * size : (i + 1) * size], output)
            for number, name in enumerate(names)
        }

    def _batched(self, shown: Any, names: tuple[str, ...]) -> bool:
        """Whether these branches are predicted in one batch: a pure function of the call and the configuration."""
        if names not in self._together:
            self._together[names] = self._may_batch(shown, names)
        return self._together[names]

    def _may_batch(self, shown: Any, names: tuple[str, ...]) -> bool:
        inner = (*self.once, self.node.predict, *self.steer)
        if self.node.batch_branches is False or any(u.branch_parameter is not None for u in inner):
            return False
        branches = [self.branches[name] for name in names]
        leaves = leaves_of(shown)
        small = leaves[0].device.type != "cpu" or sum(t.numel() for t in leaves) <= BATCHED_ELEMENTS
        if self.node.batch_branches is None and not small:
            return False
        try:
            joined = {u: self._joined(u, branches) for u in inner}
        except InputError:  # the branches' values differ in shape, and no rule evens them out
            if self.node.batch_branches:
                raise
            return False
        if any(values is None for values in joined.values()):
            return False
        arguments = {u: {**(values or {}), **u.parts(self.parts)} for u, values in joined.items()}
        self._arguments[names] = self.node.once.filled(arguments, self._seen(branches[0]))
        return True

    def _joined(self, inner: Unit[..., Any], branches: Sequence[Branch]) -> dict[str, Any] | None:
        """What a unit takes for all branches in one batch; None where they differ in a value that is no array."""
        each = [self._wire_values(inner, b) for b in branches]
        if any(fixed_differs([values[name] for values in each]) for name in each[0]):
            return None
        return {name: collate(name, [v[name] for v in each], self._rule(inner, name)) for name in each[0]}

    def _unit_arguments(self, inner: Unit[..., Any], branch: Branch) -> dict[str, Any]:
        return self._wire_values(inner, branch) | inner.parts(self.parts)

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

    def _injected(self, inner: Unit[..., Any], step: Step, branch: Branch) -> dict[str, Any]:
        known: dict[str, Any] = {name: step if is_step else branch for name, is_step in self.node.injected[inner]}
        for name, kind in self.node.tagged[inner]:
            known[name] = branch.tag if isinstance(branch.tag, kind) else None
        return known

    def _collated(self, wire: str, branch: Branch, hint: Any) -> Any:
        return collate(wire, self.run.gather(wire, branch, self.items), hint)

    def _noise_sources(self, count: int) -> list[NoiseSource]:
        """For each part of the latents, noise from generators of the items' own, apart from the initial noise."""
        if self.node.noise_source is not None:
            given = self._collated(self.node.noise_source, POSITIVE, NoiseSource)
            if given is not None:
                return [given] * count
        seeds = self.run.gather("seed", POSITIVE, self.items)
        return [
            per_item([torch.Generator().manual_seed(_mixed(seed, self.node.name, part)) for seed in seeds])
            for part in range(count)
        ]


def _refuse_two_of_a_name(loop: str, branches: Sequence[Branch]) -> None:
    """Raise `InputError` for branches that differ under one name: one would be taken for the other."""
    known: dict[str, Branch] = {}
    for branch in branches:
        if known.setdefault(branch.name, branch) != branch:
            raise InputError(
                f"{loop}: the guidance asks for two different branches {branch.name!r}; a policy goes around one of "
                "another kind, not of its own"
            )


def _called(inner: Unit[..., Any], latents: Any, arguments: Mapping[str, Any]) -> Any:
    """The one value that a unit in the loop makes of the latents."""
    (made,) = inner.results(inner.fn(latents=latents, **arguments)).values()
    return made


def _mixed(seed: int, name: str, part: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}/{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
