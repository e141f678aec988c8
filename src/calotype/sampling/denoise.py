"""`Denoise`: the sampling loop as one node of the graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from calotype.errors import GraphError, InputError
from calotype.graph.branches import Branch, Tag
from calotype.graph.hints import bare
from calotype.graph.node import Active, Node
from calotype.graph.unit import Unit, unit
from calotype.sampling.collate import split_items
from calotype.sampling.guidance.classifier_free import ClassifierFree
from calotype.sampling.guidance.policy import Guidance, NoGuidance, takes_packed
from calotype.sampling.noise import NoiseSource
from calotype.sampling.once import Once
from calotype.sampling.parameters import (
    estimate_parameters,
    is_tag,
    refuse_unsteerable,
    steered_parameters,
    step_parameters,
)
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
from calotype.sampling.steering import BlockReuse

if TYPE_CHECKING:
    from calotype.graph.events import StepEvent
    from calotype.graph.run import Run
    from calotype.sampling.packing import Form, Packing


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
        packed: a unit of components alone that makes the `Packing` in which the loop works on the latents, one tensor:
            the predictor reads and makes them packed, the scheduler moves each of their numbers so, and all others see
            them as they are. None: nobody packs.
        batch_branches: predict all branches in one batch, or in turn; by default whichever is better for the size.
        optional: the loop may be skipped, which leaves `latents` as they are.

    Raises:
        GraphError: a unit lacks `latents` or makes several values, the guidance unit uses components, the predictor
            does not take what a unit in `steer` makes, an objective takes no `Estimate`, or what packs is no unit or
            reads a wire.
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
        packed: "Unit[..., Packing] | None" = None,
        batch_branches: bool | None = None,
        optional: bool = False,
    ) -> None:
        if not isinstance(predict, Unit):
            raise GraphError(
                f"{name}: Denoise takes the unit that predicts, got {getattr(predict, '__name__', repr(predict))}; "
                "write @unit above its `def`"
            )
        self.name, self.latents, self.sigmas, self.scheduler = name, latents, sigmas, scheduler
        guidance = guidance or unguided
        self.predict, self.guidance, self.around = predict, guidance, tuple(around)
        self.after_step, self.steer, self.objectives = tuple(after_step), tuple(steer), tuple(objectives)
        self.inner: tuple[Unit[..., Any], ...] = (predict, *self.steer, *self.objectives, *self.after_step)
        self.once, self.cache, self.packed = Once(name, once), cache, packed
        self._all: tuple[Unit[..., Any], ...] = (*self.once.units, *self.inner)
        self.noise_source, self.batch_branches, self.may_skip = noise_source, batch_branches, optional
        self.step_parameters = {u: step_parameters(u) for u in self.inner}
        self.doc = predict.doc
        self._refuse_misfits()
        self.plan_reads = frozenset(self._plan_reads())
        hint = predict.parameters["latents"]
        self.reads = MappingProxyType(self._all_reads() | {latents: hint, sigmas: NoiseLevels, "seed": int})
        using = self._all if packed is None else (packed, *self._all)
        self.uses = MappingProxyType({scheduler: Scheduler} | {n: h for u in using for n, h in u.uses.items()})
        self.writes = MappingProxyType({latents: hint})

    def _refuse_misfits(self) -> None:
        """Raise `GraphError` for a unit that cannot do what it was given to the loop for."""
        name = self.name
        for inner in self.inner:
            if "latents" not in inner.parameters:
                raise GraphError(f"{name}: {inner.name} needs a parameter `latents`, the value that the loop refines")
            if len(inner.returns) > 1:
                raise GraphError(
                    f"{name}: {inner.name} makes {', '.join(inner.returns)}, but a loop takes one value; a value with "
                    "parts is a frozen dataclass"
                )
        for inner in self.steer:
            refuse_unsteerable(name, inner, self.predict)
        for inner in self.objectives:
            if not estimate_parameters(inner):
                raise GraphError(f"{name}: {inner.name} is an objective; it needs a parameter `estimate: Estimate`")
        for deciding in (self.guidance, *self.around):
            if deciding.uses:
                raise GraphError(
                    f"{name}: {deciding.name} decides the branches before anything runs, so it has no components"
                )
        if self.packed is not None:
            _refuse_no_packer(name, self.packed)

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
            around=(*self.around, *around), once=(*once, *self.once.units), cache=self.cache, packed=self.packed,
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
        uses = {n for u in running for n in u.uses} | set(self.packed.uses if self.packed is not None else ())
        reads |= {self.latents, self.sigmas, "seed"} | ({self.noise_source} if self.noise_source else set())
        return Active(frozenset(reads), frozenset(uses | {self.scheduler}))

    def blockers(self, absent: frozenset[str]) -> tuple[str, ...]:
        needed = [w for w in self._outer(self.predict) if w in self.predict.needs] + [self.latents, self.sigmas]
        return tuple(w for w in needed if w in absent)

    def lift(self, lifts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        return {self.latents: frozenset()}

    def branches(self, inputs: Mapping[str, Any], twins: frozenset[str]) -> tuple[Branch, ...]:
        found = self.policy(inputs).branches(twins)
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
        from calotype.sampling.loop import Loop  # needed at the first call only

        active = run.plan.nodes[run.position].active
        with ExitStack() as held:
            held.enter_context(run.hold(active.uses))
            for event in run.stepping(Loop(self, run, active).steps()):
                held.close()  # who looks on may preview, or wait for long
                yield event
                if event.index + 1 < event.total:
                    held.enter_context(run.hold(active.uses))

    def form(self, components: Mapping[str, Any], value: Any, policy: Guidance | None = None) -> "Form":
        """The form in which the loop works on latents of the shape of `value`, and whether a policy takes it."""
        from calotype.sampling.packing import Form  # needed at the first call only

        if self.packed is None:
            return Form(None, value)
        packing = self.packed.fn(**self.packed.parts(components))
        return Form(packing, value, policy is None or takes_packed(policy, packing))

    def rehearse(self, run: "Run", seen: Callable[[int], None] | None = None) -> list[tuple[str, ...]]:
        """Run only as many steps as show all that a step holds, and leave what they give: for predictions of memory.

        That is until every branch was predicted, and past the first step, which holds nothing of one before.

        Args:
            seen: is told the index of each of these steps when it is done.

        Returns:
            The names of the branches that each step of the whole loop predicts.
        """
        from calotype.sampling.loop import Loop

        loop = Loop(self, run, run.plan.nodes[run.position].active)
        active = [tuple(loop.policy.active(step)) for step in loop.levels.steps]
        for index, event in enumerate(run.stepping(loop.steps())):
            if seen is not None:
                seen(index)
            if index > 0 and len(active[index]) == len(loop.branches):
                run.enter(self.latents, split_items(event.latents, len(loop.items)), loop.items)
                break
        return active

    def policy(self, inputs: Mapping[str, Any]) -> Guidance:
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


def _refuse_no_packer(loop: str, packed: Any) -> None:
    """Raise `GraphError` for what is no unit of components alone."""
    if not isinstance(packed, Unit):
        raise GraphError(f"{loop}: packed must be a unit that makes the packing of components, got {packed!r}")
    if packed.reads:
        raise GraphError(f"{loop}: {packed.name} packs the latents by components alone; it reads {min(packed.reads)!r}")


def _refuse_two_of_a_name(loop: str, branches: Sequence[Branch]) -> None:
    """Raise `InputError` for branches that differ under one name: one would be taken for the other."""
    known: dict[str, Branch] = {}
    for branch in branches:
        if known.setdefault(branch.name, branch) != branch:
            raise InputError(
                f"{loop}: the guidance asks for two different branches {branch.name!r}; a policy goes around one of "
                "another kind, not of its own"
            )
