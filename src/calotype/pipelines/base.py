"""`DiffusionPipeline`: components, units and inputs, declared once and checked when the class is defined.

A subclass with `units` is run by the engine. One without is free-form: it writes its own `__init__`, calls
`register_modules`, and defines `__call__` as it likes.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, Self

import torch

from calotype.errors import (
    ComponentError,
    GraphError,
    InputError,
    UnknownInput,
    did_you_mean,
    sentences,
)
from calotype.graph.graph import Graph, build_graph
from calotype.graph.inputs import Call, describe_inputs, signature_of
from calotype.graph.inputs import Inputs as AnyInputs
from calotype.graph.node import Node
from calotype.pipelines.adapters import WithAdapters
from calotype.pipelines.declared import (
    MEMO,
    OPTIONS,
    check_component,
    declared_components,
)
from calotype.pipelines.devices import WithDevices, components_of
from calotype.pipelines.result import Result
from calotype.pipelines.stored import WithRepositories
from calotype.pipelines.wiring import WithGraph

if TYPE_CHECKING:
    from calotype.graph.memo import Memo, MemoInfo
    from calotype.graph.plan import Plan
    from calotype.graph.run import Run
    from calotype.graph.surroundings import Holder
    from calotype.memory.placed import Placed
    from calotype.memory.placement import Placing
    from calotype.memory.request import Memory, MemoryRequest
    from calotype.memory.residency import Residency
    from calotype.pipelines.loading.report import LoadReport
    from calotype.pipelines.stream import Stream

P = ParamSpec("P")

__all__ = ["DiffusionPipeline", "takes"]


class Takes(Generic[P]):
    """The call of a pipeline as a type checker sees it. The class that is given it makes a method of it."""

    def __init__(self, inputs: Callable[P, AnyInputs]) -> None:
        self.__inputs__ = inputs

    def __call__(self, *args: P.args, **inputs: P.kwargs) -> Result:
        raise AssertionError("the pipeline's own __call__ is in its place")


def takes(inputs: Callable[P, AnyInputs]) -> Takes[P]:
    """Declare a pipeline's inputs so that `pipe(` completes in an editor: `__call__ = takes(TextToImageInputs)`.

    The same as `Inputs = TextToImageInputs`, which a type checker cannot turn into a call signature.
    """
    return Takes(inputs)


class DiffusionPipeline(WithRepositories, WithDevices, WithGraph, WithAdapters):
    """A pipeline: typed components, `Inputs`, and `units` that the engine runs.

    Components are the annotations of the class; one that may be absent is typed `... | None = None`.

    Args:
        device: where components run; a torch device or its name. By default the first GPU there is, else the CPU.
        memory: the most bytes of components on the device at once (`"8GiB"`), or a mapping of devices to such budgets
            and of components, or patterns of their layers, to `"keep"`, `"stream"` or the precision that their weights
            are kept in (`{"cuda:0": "20GiB", "unet": "int8"}`). None keeps all of them there.
        placement: the device of components that run elsewhere (`{"text_encoder": "cuda:1"}`), or `"auto"`; see `place`.
        memo: the most bytes of results that are kept across calls; 0 keeps none.
        components: by name.

    Raises:
        GraphError: (when a class is defined) its units do not fit together.
        UnknownInput: a name that is neither a component nor an option.
        ComponentError: a component of the wrong type.
    """

    Inputs: ClassVar[type[AnyInputs]] = AnyInputs
    units: ClassVar[tuple[Node, ...]] = ()
    graph: ClassVar[Graph]
    _declared: ClassVar[Mapping[str, Any]] = {}
    _inserted: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = cls.__dict__.get("__call__")
        if declared is not None and hasattr(declared, "__inputs__"):
            if cls.__dict__.get("Inputs", declared.__inputs__) is not declared.__inputs__:
                raise GraphError(
                    f"{cls.__name__} declares its inputs twice: leave out Inputs, or __call__ = takes(...)"
                )
            cls.Inputs = declared.__inputs__
        cls._declared = declared_components(cls, {*OPTIONS, *dir(DiffusionPipeline)})
        if cls.units:
            cls.graph = build_graph(cls.__name__, cls.units, cls.Inputs, cls._declared)
        if cls.units or isinstance(declared, Takes):
            cls._document_call()

    @classmethod
    def _document_call(cls) -> None:
        """Give the class a `__call__` of its own with the signature and the documentation that `Inputs` stands for."""

        def __call__(self: Any, *args: Any, **inputs: Any) -> Result:  # noqa: N807
            return cls._call(self, *args, **inputs)

        own = signature_of(cls.Inputs)
        me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        __call__.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[me, *own.parameters.values()], return_annotation=Result
        )
        __call__.__doc__ = f"Run the pipeline and return its outputs.\n\n{describe_inputs(cls.Inputs)}"
        __call__.__inputs__ = cls.Inputs  # type: ignore[attr-defined]
        if "__call__" not in cls.__dict__ or hasattr(cls.__dict__["__call__"], "__inputs__"):
            cls.__call__ = __call__  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        memory: "Memory | MemoryRequest | None" = None,
        placement: "Placing | None" = None,
        memo: int | str = MEMO,
        **components: Any,
    ) -> None:
        import calotype.pipelines.values  # noqa: F401 - registers what the memo holds
        from calotype.graph.memo import Memo
        from calotype.memory.residency import parse_bytes
        from calotype.pipelines.generations import Generations
        from calotype.pipelines.memory.budgets import pack, residency
        from calotype.pipelines.replay.provenance import Digests

        cls = type(self)
        for name in components:
            if name not in cls._declared:
                known = [*cls._declared, *OPTIONS]
                raise UnknownInput(
                    sentences(
                        f"{cls.__name__} has no component or option {name!r}{did_you_mean(name, known)}",
                        f"Its components are {', '.join(cls._declared) or 'none'}",
                    )
                )
        self._names = list(cls._declared)
        self._settings: dict[str, Any] = {}
        self._source: str | None = None
        self._report: LoadReport | None = None
        self._generations = Generations()
        self._digests = Digests(self._generations)
        self._memo = Memo(parse_bytes(memo, "memo")) if memo else None
        self._residency: Residency | Placed
        self._residency, self._request = residency(
            components_of(self), self._names, memory, device, placed=placement is not None
        )
        for name in cls._declared:
            setattr(self, name, components[name] if name in components else copy.copy(getattr(cls, name, None)))
        pack(self, self._request)
        if placement is not None:
            self.place(placement)

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name in cls._declared:
            check_component(cls.__name__, name, value, cls._declared[name])
        elif cls.units and name in ("units", "Inputs", "graph"):
            raise AttributeError(
                f"{name} belongs to the class {cls.__name__}, whose graph is checked when it is defined; subclass it, "
                "or use with_units"
            )
        elif cls.units and not name.startswith("_") and not hasattr(cls, name):
            from calotype.pipelines.habits import unknown_component

            raise AttributeError(unknown_component(cls.__name__, name, cls._declared))
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # a checker knows what there is

        def __getattr__(self, name: str) -> Any:
            cls = type(self)
            if name.startswith("_") or hasattr(cls, name):  # a question, or what a property within it lacks
                return object.__getattribute__(self, name)  # which Python says best
            from calotype.pipelines.habits import unknown_attribute

            names = self.__dict__.get("_names", cls._declared)
            raise AttributeError(unknown_attribute(cls.__name__, name, names, dir(cls)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A pipeline with copies of the components, which remembers nothing of this one's calls.

        Raises:
            ComponentError: `memory` decides where this one's components are; make another pipeline of copies of them.
        """
        from calotype.graph.memo import Memo
        from calotype.memory.residency import Residency
        from calotype.pipelines.generations import Generations
        from calotype.pipelines.replay.provenance import Digests

        parts = self.components
        if self._residency.budget is not None:
            raise ComponentError(
                f"this {type(self).__name__} has a memory budget, which decides where its weights are; copy one "
                "without, or load it a second time"
            )
        other: Self = object.__new__(type(self))
        memo[id(self)] = other
        own = ("_generations", "_digests", "_memo", "_residency", "_request")
        kept = {n: value for n, value in self.__dict__.items() if n not in own and n not in parts}
        other.__dict__.update(copy.deepcopy(kept, memo))
        other._generations = Generations()
        other._digests = Digests(other._generations)
        other._memo = Memo(self._memo.capacity) if self._memo else None
        other._residency, other._request = Residency(components_of(other), self._residency.device), self._request
        for name, part in copy.deepcopy(parts, memo).items():
            setattr(other, name, part)
        if self._residency.is_placed:
            other.place(self.placement)
        return other

    # -- components ------------------------------------------------------------------------------------------------

    def register_modules(self, **modules: Any) -> None:
        """Make these the pipeline's components, so that they are saved, loaded and moved with it (free-form)."""
        self._refuse_uninitialised()
        for name, module in modules.items():
            if name not in self._names:
                self._names.append(name)
            setattr(self, name, module)

    def register_to_config(self, **settings: Any) -> None:
        """Keep plain values that the constructor takes besides components, so that they are saved and loaded with the
        pipeline (free-form): `self.register_to_config(strength=strength)` sets `self.strength`."""
        self._refuse_uninitialised()
        for name, value in settings.items():
            if value is not None and not isinstance(value, str | int | float | bool | list | tuple | dict):
                raise ComponentError(f"register_to_config: {name} must be a plain value, got {type(value).__name__}")
            setattr(self, name, value)
        self._settings.update(settings)

    def _refuse_uninitialised(self) -> None:
        if "_names" not in self.__dict__:
            raise ComponentError(f"{type(self).__name__}.__init__ must call super().__init__() first")

    @property
    def components(self) -> dict[str, Any]:
        """Every component by name; None where it is not loaded."""
        self._refuse_uninitialised()
        return {name: getattr(self, name, None) for name in self._names}

    def changed(self, component: str) -> None:
        """Say that a component's weights were changed in a way that cannot be noticed (through `.data`)."""
        if component not in self._names:
            raise UnknownInput(f"changed: there is no component {component!r}{did_you_mean(component, self._names)}")
        self._residency.changed(getattr(self, component, None))
        self._generations.bump(component)

    @property
    def memo_info(self) -> "MemoInfo | None":
        """Hits, misses and size of the memo; None where it is turned off."""
        return self._memo.info if self._memo else None

    # -- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Run the pipeline and return its outputs; `help(type(pipe).__call__)` lists a pipeline's inputs."""
        return self._call(*args, **inputs)

    def _call(self, *args: Any, **inputs: Any) -> Result:
        if args:
            names = list(signature_of(self.Inputs).parameters)
            raise InputError(f"{type(self).__name__} takes keywords only; write {names[0]}={args[0]!r}")
        return self.stream(**inputs).finish()

    def run(self, inputs: AnyInputs) -> Result:
        """Run with a model of inputs instead of keywords, which static checkers follow: `pipe.run(Inputs(...))`."""
        if not isinstance(inputs, self.Inputs):
            raise InputError(f"run takes {self.Inputs.__name__}, got {type(inputs).__name__}")
        return self._call(**{name: getattr(inputs, name) for name in inputs.model_fields_set})

    def stream(self, **inputs: Any) -> "Stream":
        """The call as an iterator of steps: show a preview, stop, or interleave; `finish()` returns the result.

        Everything wrong with the inputs is raised here, before the first step.
        """
        return self._stream(inputs)

    def _stream(
        self, inputs: Mapping[str, Any], in_turn: frozenset[str] = frozenset(), in_parts: frozenset[str] = frozenset()
    ) -> "Stream":
        """A running call. `in_turn` names loops whose branches do not share a batch, and `in_parts` nodes whose
        attention is computed in parts, as in a call that is repeated."""
        from calotype.pipelines.replay.provenance import recipe_of  # only who calls needs the engine
        from calotype.pipelines.stream import Stream

        call = self._read(inputs).seeded()
        if self._residency.device.type == "meta":
            raise ComponentError(
                f"this {type(self).__name__} is on the device 'meta', which has no data: plan() works there and a call "
                "does not; load it with device='cpu' or another"
            )
        plan = self._planned(call, in_turn, in_parts)
        components = self.components
        generations = self._generations.of_all({name: components[name] for name in plan.uses})
        run = self._run(plan, self._memo, generations=generations)
        return Stream(plan, run, recipe_of(self, plan, generations))

    def plan(self, **inputs: Any) -> "Plan":
        """What a call would do, before any compute: units, components with their bytes, memo hits, predicted peak.

        Raises what the call would raise for missing, unknown or unused inputs and missing components.
        """
        from calotype.graph.plan import with_facts
        from calotype.pipelines.memory.budgets import forecast, layouts
        from calotype.pipelines.memory.prediction import Unmoved, predict_peak  # only who asks for a plan needs it

        plan = self._planned(self._read(inputs))
        counted = with_facts(plan, self._run(plan, self._memo).counts(), self._residency.sizes(), lambda: None)
        counted = replace(counted, layouts=layouts(self, counted))
        if self._residency.is_placed or self._residency.is_tiered:
            return forecast(self, counted)
        rehearsal = self._run(replace(plan, call=plan.call.seeded()), memo=None, holder=Unmoved())
        budget = self._residency.budget if self._residency.evicts else None
        return replace(counted, _predict=partial(predict_peak, rehearsal, self.components, budget))

    def _planned(
        self, call: Call, in_turn: frozenset[str] = frozenset(), in_parts: frozenset[str] = frozenset()
    ) -> "Plan":
        from calotype.graph.planning import make_plan

        components = self.components
        plan = make_plan(self._graph(), call, components)
        if in_turn or in_parts:
            plan = replace(plan, in_turn=in_turn, in_parts=in_parts)
        if self._residency.is_placed or self._residency.device.type != "cpu":
            from calotype.pipelines.memory.placing import routed  # what one CPU computes is there already

            plan = routed(self, plan)
        if self._residency.is_tiered:
            from calotype.pipelines.memory.fitting import fitted  # only who has a budget needs it

            return fitted(self, plan)
        for planned in plan.nodes:
            self._residency.check({name: components[name] for name in planned.active.uses - planned.node.idle})
        return plan

    def _read(self, inputs: Mapping[str, Any]) -> Call:
        from calotype.graph.calls import read_call  # which nobody needs before the first call

        self._graph()
        return read_call(self.Inputs, inputs)

    def _run(
        self,
        plan: "Plan",
        memo: "Memo | None",
        holder: "Holder | None" = None,
        generations: "Mapping[str, int] | None" = None,
    ) -> "Run":
        from calotype.graph.run import Run
        from calotype.pipelines.adapter_records import Steady
        from calotype.pipelines.memory.budgets import crossing, memory_for, way

        components, place = self.components, self._residency.place
        keys: dict[str, Any] = dict.fromkeys(plan.uses)  # only a memo asks whether components are what they were
        if memo is not None:
            if generations is None:
                generations = self._generations.of_all({name: components[name] for name in plan.uses})
            keys = {name: (generation, str(place(name))) for name, generation in generations.items()}
        return Run(self._graph(), plan, components, keys, memo,
                   holder or Steady(memory_for(self, plan), components), crossing(plan), way(plan))  # fmt: skip

    def __repr__(self) -> str:
        held = [f"{n}={'None' if c is None else type(c).__name__}" for n, c in self.components.items()]
        return f"{type(self).__name__}({', '.join(held)})"
