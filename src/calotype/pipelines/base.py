"""`DiffusionPipeline`: components, units and inputs, declared once and checked when the class is defined.

A subclass with `units` is run by the engine. One without is free-form: it writes its own `__init__`, calls
`register_modules`, and defines `__call__` as it likes.
"""

import copy
import inspect
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, get_origin, get_type_hints

import torch
from pydantic import create_model

import calotype.pipelines.values  # noqa: F401 - registers arrays and pictures with the memo
from calotype import __version__
from calotype.errors import ComponentError, GraphError, InputError, RepositoryError, UnknownInput, did_you_mean
from calotype.graph.draw import draw_html, draw_svg, draw_text
from calotype.graph.graph import Graph, build_graph
from calotype.graph.hints import ComponentRef, accepts_none, bare, metadata_of, spell, unannotated
from calotype.graph.inputs import Call, Inputs, Unreplayable, describe_inputs, read_call, signature_of
from calotype.graph.memo import Memo, MemoInfo
from calotype.graph.node import Node
from calotype.graph.plan import Plan, make_plan, with_counts
from calotype.graph.run import Run, StepEvent
from calotype.graph.split import Split, split_graph
from calotype.memory.residency import Residency, parse_bytes
from calotype.pipelines.generations import Generations
from calotype.pipelines.packs import UnitPack, inserted
from calotype.pipelines.recipe import Recipe, recorded_inputs
from calotype.pipelines.result import Result
from calotype.pipelines.values import digest
from calotype.weights.component import one_dtype
from calotype.weights.components import load_components, save_components
from calotype.weights.model_index import ModelIndex, read_model_index
from calotype.weights.registry import resolve

P = ParamSpec("P")

OPTIONS = frozenset({"device", "memory", "memo"})
SETTINGS = frozenset({"Inputs", "units", "graph"})


def takes(inputs: Callable[P, Inputs]) -> "Callable[Concatenate[Any, P], Result]":
    """Declare a pipeline's inputs so that `pipe(` completes in an editor: `__call__ = takes(TextToImageInputs)`.

    The same as `Inputs = TextToImageInputs`, which a type checker cannot turn into a call signature.
    """

    def __call__(self: "DiffusionPipeline", *args: P.args, **kwargs: P.kwargs) -> Result:  # noqa: N807
        return self._call(*args, **kwargs)

    __call__.__inputs__ = inputs  # type: ignore[attr-defined]
    return __call__


class DiffusionPipeline:
    """A pipeline: typed components, `Inputs`, and `units` that the engine runs.

    Components are the annotations of the class; one that may be absent is typed `... | None = None`.

    Args:
        device: where components run; a torch device or its name. By default the first GPU there is, else the CPU.
        memory: the most bytes of components on the device at once (`"8GiB"`); None keeps all of them there.
        memo: the most bytes of results that are kept across calls; 0 keeps none.
        components: by name.

    Raises:
        GraphError: (when a class is defined) its units do not fit together.
        UnknownInput: a name that is neither a component nor an option.
        ComponentError: a component of the wrong type.
    """

    Inputs: ClassVar[type[Inputs]] = Inputs
    units: ClassVar[tuple[Node, ...]] = ()
    graph: ClassVar[Graph]
    _declared: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = cls.__dict__.get("__call__")
        if hasattr(declared, "__inputs__"):
            cls.Inputs = declared.__inputs__
        cls._declared = _declared_components(cls)
        if cls.units:
            cls.graph = build_graph(cls.__name__, cls.units, cls.Inputs, cls._declared)
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
        memory: int | str | None = None,
        memo: int | str = "256MiB",
        **components: Any,
    ) -> None:
        cls = type(self)
        for name in components:
            if name not in cls._declared:
                known = [*cls._declared, *OPTIONS]
                raise UnknownInput(
                    f"{cls.__name__} has no component or option {name!r}{did_you_mean(name, known)}. "
                    f"Its components are {', '.join(cls._declared) or 'none'}"
                )
        self._names = list(cls._declared)
        self._source: str | None = None
        self._digests: dict[tuple[str, int], str] = {}
        self._generations = Generations()
        self._memo = Memo(parse_bytes(memo)) if memo else None
        budget = None if memory is None else parse_bytes(memory)
        self._residency = Residency(lambda: self.components, _device(device), budget)
        for name in cls._declared:
            default = copy.copy(getattr(cls, name, None))
            setattr(self, name, components.get(name, default))

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name in cls._declared:
            _check_component(cls.__name__, name, value, cls._declared[name])
        elif cls.units and not name.startswith("_") and not hasattr(cls, name):
            raise AttributeError(
                f"{cls.__name__} has no component {name!r}{did_you_mean(name, cls._declared)}; "
                f"its components are {', '.join(cls._declared)}"
            )
        object.__setattr__(self, name, value)

    # -- components ------------------------------------------------------------------------------------------------

    def register_modules(self, **modules: Any) -> None:
        """Make these the pipeline's components, so that they are saved, loaded and moved with it (free-form)."""
        for name, module in modules.items():
            if name not in self._names:
                self._names.append(name)
            setattr(self, name, module)

    @property
    def components(self) -> dict[str, Any]:
        """Every component by name; None where it is not loaded."""
        return {name: getattr(self, name, None) for name in self._names}

    @property
    def device(self) -> torch.device:
        """Where components run."""
        return self._residency.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Run on another device, or convert the floating-point weights of every component. Returns the pipeline."""
        if isinstance(device, torch.dtype):
            raise InputError(f"to(): {device} is a dtype; write to(dtype={device})")
        if device is not None:
            old = self._residency
            self._residency = Residency(lambda: self.components, _device(device), old.budget)
        for component in self.components.values():
            if isinstance(component, torch.nn.Module):
                component.to(device=None if self._residency.budget else self.device, dtype=dtype)
        return self

    def changed(self, component: str) -> None:
        """Say that a component's weights were changed in a way that cannot be noticed (through `.data`)."""
        if component not in self._names:
            raise UnknownInput(f"changed: there is no component {component!r}{did_you_mean(component, self._names)}")
        self._generations.bump(component)

    @property
    def memo_info(self) -> MemoInfo | None:
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

    def run(self, inputs: Inputs) -> Result:
        """Run with a model of inputs instead of keywords, which static checkers follow: `pipe.run(Inputs(...))`."""
        if not isinstance(inputs, self.Inputs):
            raise InputError(f"run takes {self.Inputs.__name__}, got {type(inputs).__name__}")
        return self._call(**{name: getattr(inputs, name) for name in inputs.model_fields_set})

    def stream(self, **inputs: Any) -> "Stream":
        """The call as an iterator of steps: show a preview, stop, or interleave; `finish()` returns the result.

        Everything wrong with the inputs is raised here, before the first step.
        """
        call = _with_seed(self._read(inputs))
        plan = make_plan(self._graph(), call, self.components)
        run = self._run(plan)
        return Stream(self, plan, run)

    def plan(self, **inputs: Any) -> Plan:
        """What a call would do, before any compute: units, components with their bytes, memo hits, predicted peak.

        Raises what the call would raise for missing, unknown or unused inputs and missing components.
        """
        call = self._read(inputs)
        plan = make_plan(self._graph(), call, self.components)
        return with_counts(plan, self._run(plan).counts(), self._residency.sizes())

    def _read(self, inputs: Mapping[str, Any]) -> Call:
        self._graph()
        return read_call(self.Inputs, inputs)

    @classmethod
    def _graph(cls) -> Graph:
        if not cls.units:
            raise GraphError(f"{cls.__name__} has no units: a free-form pipeline is called, it has no plan or stream")
        return cls.graph

    def _run(self, plan: Plan) -> Run:
        used = {name for n in plan.nodes for name in n.active.uses}
        components = self.components
        generations = {name: self._generations.of(name, components[name]) for name in used}
        return Run(self._graph(), plan, components, generations, self._memo, self._residency)

    # -- the graph -------------------------------------------------------------------------------------------------

    @classmethod
    def split(cls, trained: Iterable[str]) -> Split:
        """What training these components may compute once and cache, and what must run in every step.

        Raises:
            ComponentError: a name that is not a component, or one that no unit up to the loop uses.
        """
        return split_graph(cls._graph(), [trained] if isinstance(trained, str) else trained)

    @classmethod
    def draw(cls, form: str = "text") -> str:
        """The graph as `"text"`, `"svg"` or `"html"`."""
        forms = {"text": draw_text, "svg": draw_svg, "html": draw_html}
        if form not in forms:
            raise InputError(f"draw: form must be one of {', '.join(forms)}, got {form!r}{did_you_mean(form, forms)}")
        return forms[form](cls._graph())

    def _repr_html_(self) -> str | None:
        return self.draw("html") if self.units else None

    def __repr__(self) -> str:
        held = [f"{n}={'None' if c is None else type(c).__name__}" for n, c in self.components.items()]
        return f"{type(self).__name__}({', '.join(held)})"

    def with_units(
        self, pack: UnitPack | Sequence[Node], *, after: str | None = None, before: str | None = None
    ) -> Any:
        """A new pipeline with more units, sharing this one's components. The wiring is checked here.

        Args:
            pack: units, or a `UnitPack` of units with the inputs they add.
            after, before: the name of the unit to insert at; by default before the first loop.

        Raises:
            GraphError: the units do not fit, a name clashes, or there is no unit to insert at.
        """
        cls = type(self)
        pack = pack if isinstance(pack, UnitPack) else UnitPack(tuple(pack))
        units = inserted(self._graph(), pack.units, after, before)
        clashes = set(pack.fields) & set(cls.Inputs.model_fields)
        if clashes:
            raise GraphError(f"{cls.__name__} already has the input {', '.join(sorted(clashes))}; rename the pack's")
        model = create_model(cls.Inputs.__name__, __base__=cls.Inputs, **pack.fields)  # type: ignore[call-overload]
        wider = type(cls.__name__, (cls,), {"units": units, "Inputs": model, "__module__": cls.__module__})
        other = object.__new__(wider)
        other.__dict__.update(self.__dict__)
        other.__dict__["_residency"] = Residency(lambda: other.components, self.device, self._residency.budget)
        return other

    # -- repositories ----------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        only: Sequence[str] | None = None,
        dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        torch_dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        memory: int | str | None = None,
        memo: int | str = "256MiB",
        **components: Any,
    ) -> Self:
        """Load a pipeline folder, or a model that ships with the package (`"calotype/emoji-64"`).

        Args:
            source: a folder with a `model_index.json`, or the name of a shipped model.
            only: load these components and leave the others None.
            dtype: the type of floating-point weights, float32 by default; a mapping by component name; `"auto"` keeps
                the files'. `torch_dtype` is the same.
            device, memory, memo: as for the class.
            components: components to use instead of the folder's; `name=None` leaves one out.

        Raises:
            RepositoryError, WeightsError, ConfigError: the folder, its weights or its configurations are wrong.
            UnknownInput: a name that is neither a component nor an option.
        """
        folder = find_repository(source)
        index = read_model_index(folder)
        target = cls._target(index, folder)
        wanted, optional = target._wanted()
        for name in components:
            if name not in wanted:
                known = [*wanted, "only", "dtype", *OPTIONS]
                raise UnknownInput(
                    f"from_pretrained: {target.__name__} has no component or option {name!r}{did_you_mean(name, known)}. "
                    f"Its components are {', '.join(wanted)}"
                )
        loaded = load_components(
            folder, wanted, optional=optional, overrides=components, only=only,
            dtype=one_dtype(dtype, torch_dtype), index=index,
        )  # fmt: skip
        pipe = target._assemble(loaded, device=device, memory=memory, memo=memo)
        pipe._source = str(source)
        return pipe

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write every component and the index in the ecosystem's layout: all of it or nothing.

        Raises:
            ComponentError: a component cannot be saved.
            RepositoryError: `folder` is a file.
        """
        save_components(type(self).__name__, self.components, Path(folder).expanduser())

    @classmethod
    def _target(cls, index: ModelIndex, folder: Path) -> type[Self]:
        """The class to make: this one, or the index's where this is the base."""
        if cls is not DiffusionPipeline:
            return cls
        try:
            found = resolve("calotype", index.class_name)
        except RepositoryError as error:
            raise RepositoryError(
                f"{folder / 'model_index.json'} is for a pipeline {index.class_name!r}, which calotype does not have "
                f"({error}); load it with the pipeline class that you want: YourPipeline.from_pretrained({str(folder)!r})"
            ) from None
        if not issubclass(found, DiffusionPipeline):
            raise RepositoryError(
                f"{folder / 'model_index.json'}: '_class_name' is {index.class_name!r}, which is not a pipeline"
            )
        return found  # type: ignore[return-value]

    @classmethod
    def _wanted(cls) -> tuple[dict[str, Any], set[str]]:
        """The components that the class takes, with their types, and those that may be absent."""
        if cls.units:
            hints = cls._declared
            defaults = {n for n in hints if accepts_none(hints[n]) or getattr(cls, n, None) is not None}
            return {n: _expected(h) for n, h in hints.items()}, defaults
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return dict.fromkeys(p.name for p in named), {p.name for p in named if p.default is not p.empty}

    @classmethod
    def _assemble(cls, loaded: Mapping[str, Any], **options: Any) -> Self:
        if cls.units:
            held = {n: c for n, c in loaded.items() if c is not None or accepts_none(cls._declared[n])}
            absent = [n for n in loaded if n not in held]
            pipe = cls(**held, **options)
            for name in absent:
                object.__setattr__(pipe, name, None)
            return pipe
        parameters = list(inspect.signature(cls.__init__).parameters)[1:]
        pipe = cls(**{name: loaded.get(name) for name in parameters if name in loaded or name not in OPTIONS})
        pipe._residency = Residency(lambda: pipe.components, _device(options["device"]))
        if pipe.device.type != "cpu":
            pipe.to(pipe.device)
        return pipe

    # -- provenance ------------------------------------------------------------------------------------------------

    def _recipe(self, plan: Plan) -> Recipe:
        components, dtypes = {}, {}
        for name in dict.fromkeys(n for node in plan.nodes for n in sorted(node.active.uses)):
            component = getattr(self, name)
            components[name] = self._digest(name, component)
            weights = list(component.parameters()) if isinstance(component, torch.nn.Module) else []
            if weights:
                dtypes[name] = str(weights[0].dtype).removeprefix("torch.")
        inputs = recorded_inputs(self.Inputs, plan.call.values)
        return Recipe(
            pipeline=type(self).__name__, source=self._source, components=components, inputs=inputs, dtypes=dtypes,
            device=str(self.device), versions={"calotype": __version__, "torch": str(torch.__version__)},
            given=(*plan.call.given, *self._unreplayable(plan.call)), outputs=plan.call.outputs or (),
        )  # fmt: skip

    def _unreplayable(self, call: Call) -> list[str]:
        """The inputs given in this call that a recipe cannot hold."""
        fields = self.Inputs.model_fields
        return [
            name
            for name, value in call.values.items()
            if value is not None and any(isinstance(m, Unreplayable) for m in metadata_of(fields[name].annotation))
        ]

    def _digest(self, name: str, component: Any) -> str:
        """A digest of a component's weights, computed once per generation; the class of one without weights."""
        if not isinstance(component, torch.nn.Module):
            config = getattr(component, "config", None)
            return f"{type(component).__name__}({config!r})" if config is not None else type(component).__name__
        key = (name, self._generations.of(name, component))
        if key not in self._digests:
            self._digests[key] = digest(*component.state_dict().values())
        return self._digests[key]


class Stream:
    """A running call: an iterator of `StepEvent`. Leaving it early frees everything it holds."""

    def __init__(self, pipe: DiffusionPipeline, plan: Plan, run: Run) -> None:
        self.plan = plan
        self._pipe, self._run, self._result = pipe, run, None
        self._steps = self._iterate()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> StepEvent:
        return next(self._steps)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop here. Nothing of the call is left behind."""
        self._steps.close()
        self._run.wires.clear()

    @property
    def result(self) -> Result:
        """The outputs. Raises `InputError` while there are steps left."""
        if self._result is None:
            raise InputError("the stream has not finished: iterate it to the end, or call finish()")
        return self._result

    def finish(self) -> Result:
        """Run what is left and return the outputs."""
        for _ in self._steps:
            pass
        return self.result

    @torch.no_grad()
    def _iterate(self) -> Generator[StepEvent, None, None]:
        yield from self._run.execute()
        recipe = self._pipe._recipe(self.plan)
        self._result = Result({wire: self._run.results(wire) for wire in self.plan.outputs}, recipe)
        self._run.wires.clear()


def find_repository(source: str | PathLike[str]) -> Path:
    """The folder of a repository: a path, or the name of a model that ships with the package."""
    shipped = Path(__file__).parent.parent / "assets"
    if isinstance(source, str) and source.startswith("calotype/"):
        names = sorted(f"calotype/{p.name}" for p in shipped.iterdir() if p.is_dir()) if shipped.is_dir() else []
        if source not in names and not Path(source).exists():
            raise RepositoryError(
                f"no model {source!r} ships with calotype{did_you_mean(source, names)}; there is {', '.join(names)}"
            )
        if source in names:
            return shipped / source.partition("/")[2]
    return Path(source).expanduser()


def _declared_components(cls: type[DiffusionPipeline]) -> dict[str, Any]:
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise GraphError(f"{cls.__name__}: {error}; import the type outside of `if TYPE_CHECKING`") from None
    declared = {
        n: h for n, h in hints.items() if not n.startswith("_") and n not in SETTINGS and get_origin(h) is not ClassVar
    }
    for name in declared:
        if name in OPTIONS or hasattr(DiffusionPipeline, name):
            raise GraphError(
                f"{cls.__name__}: a component cannot be named {name!r}, which every pipeline has; rename it"
            )
    return declared


def _check_component(owner: str, name: str, value: Any, hint: Any) -> None:
    wanted = unannotated(bare(hint))
    if value is None or wanted is Any:
        return
    if isinstance(wanted, ComponentRef):
        fine = wanted.admits(value)
    else:
        try:
            fine = isinstance(value, wanted)
        except TypeError:
            fine = True  # a protocol that cannot be checked at run time: the graph's own check is the judge
    if not fine:
        raise ComponentError(f"{owner}.{name} must be {spell(hint)}, got {type(value).__name__}")


def _expected(hint: Any) -> Any:
    wanted = unannotated(bare(hint))
    if isinstance(wanted, ComponentRef):
        return wanted.path
    return wanted if isinstance(wanted, type) else None


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must name a torch device such as 'cuda' or 'cpu', got {device!r}") from error


def _with_seed(call: Call) -> Call:
    """The call with a seed drawn where none was given, so that the recipe can repeat it."""
    if call.values["seed"] is not None:
        return call
    values = {**call.values, "seed": secrets.randbelow(2**32)}
    return Call(values, call.explicit, call.outputs, call.given)
