"""The graph of a pipeline: the methods of `DiffusionPipeline` that split it, draw it and insert units into it."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

from calotype.errors import GraphError, InputError, UnknownInput, did_you_mean
from calotype.graph.graph import Graph
from calotype.graph.inputs import Inputs as AnyInputs
from calotype.graph.node import Node
from calotype.pipelines.devices import components_of
from calotype.pipelines.packs import UnitPack, inserted, widened

if TYPE_CHECKING:
    from calotype.graph.split import Split
    from calotype.memory.placed import Placed
    from calotype.memory.residency import Residency


class WithGraph:
    """The part of a pipeline that knows how its units are wired."""

    if TYPE_CHECKING:
        Inputs: ClassVar[type[AnyInputs]]
        units: ClassVar[tuple[Node, ...]]
        graph: ClassVar[Graph]
        _declared: ClassVar[Mapping[str, Any]]
        _names: list[str]
        _residency: Residency | Placed

    @classmethod
    def _graph(cls) -> Graph:
        if not cls.units:
            raise GraphError(f"{cls.__name__} has no units: a free-form pipeline is called, it has no plan or stream")
        return cls.graph

    @classmethod
    def split(cls, trained: Iterable[str]) -> "Split":
        """What training these components may compute once and cache, and what must run in every step.

        Raises:
            ComponentError: a name that is not a component, or one that no unit up to the loop uses.
            InputError: `trained` is no list of names.
        """
        from calotype.graph.split import split_graph  # only who trains needs it

        if not isinstance(trained, Iterable):
            raise InputError(f"split takes the names of the components to train, got {trained!r}")
        return split_graph(cls._graph(), [trained] if isinstance(trained, str) else trained)

    @classmethod
    def draw(cls, form: str = "text") -> str:
        """The graph as `"text"`, `"svg"` or `"html"`."""
        from calotype.graph.draw import draw_html, draw_svg, draw_text  # only who looks at it needs it

        forms = {"text": draw_text, "svg": draw_svg, "html": draw_html}
        if not isinstance(form, str) or form not in forms:
            near = did_you_mean(str(form), forms)
            raise InputError(f"draw: form must be one of {', '.join(forms)}, got {form!r}{near}")
        return forms[form](cls._graph())

    def _repr_html_(self) -> str | None:
        return self.draw("html") if self.units else None

    def with_units(
        self,
        pack: UnitPack | Sequence[Node] | str | PathLike[str],
        *,
        after: str | None = None,
        before: str | None = None,
        revision: str | None = None,
        **components: Any,
    ) -> Self:
        """A new pipeline with more units, sharing this one's components. The wiring is checked here.

        Args:
            pack: units, a `UnitPack` of units with the inputs they add, or where one is: the name of a pack that ships
                in `calotype.community`, a file, a folder, or the id of a repository on a hub (see `from_pretrained`).
            revision: of a repository on a hub; by default the one that was approved.
            after, before: the name of the unit to insert at; by default before the first loop, or before whatever
                reads an input that a unit of the pack refines.
            components: those that the pack adds, by name; they may also be assigned later.

        Raises:
            GraphError: the units do not fit, a name clashes (a unit's, an input's, a validator's), or there is no unit
                to insert at.
            UnknownInput: the pack adds no component of that name.
            InputError: `pack` is none, nor where one is.
            UntrustedCode, RepositoryError: the pack is code of others that was not approved, or cannot be found.
        """
        from calotype.memory.residency import Residency
        from calotype.pipelines.loading.custom import as_pack  # only who inserts needs it

        cls = type(self)
        pack = as_pack(pack, revision)
        units = inserted(self._graph(), pack, after, before)
        for unknown in components.keys() - pack.components.keys():
            raise UnknownInput(f"with_units: the pack adds no {unknown!r}{did_you_mean(unknown, pack.components)}")
        model = widened(cls.Inputs, pack, cls.__name__)
        name = f"{cls.__name__}+{'+'.join(unit.name for unit in pack.units or pack.for_loop)}"
        added = {n: h | None for n, h in pack.components.items() if n not in cls._declared}
        settings = {"units": units, "Inputs": model, "__module__": cls.__module__, "_inserted": True}
        wider = type(name, (cls,), {**settings, "__annotations__": added, **dict.fromkeys(added)})
        other: Self = object.__new__(wider)
        other.__dict__.update(self.__dict__, _names=[*self._names, *added])
        for component in added.keys() | components.keys():
            setattr(other, component, components.get(component))
        whole: Any = other  # a DiffusionPipeline: this is a part of it
        if isinstance(self._residency, Residency):
            self._residency.share(components_of(whole))
        else:
            from calotype.pipelines.memory.placing import share

            share(whole, self._residency)
        return other
