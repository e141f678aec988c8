"""What a pipeline class declares: its components by name and type, read from its annotations."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeVar, cast, get_origin, get_type_hints

from calotype.errors import ComponentError, GraphError
from calotype.graph.hints import ClassRef, accepts_none, bare, got_instead, members, spell
from calotype.graph.unit import unresolved

SETTINGS = frozenset({"Inputs", "units", "graph"})

MEMO = "256MiB"
OPTIONS = frozenset({"device", "memory", "placement", "memo"})
"""What the constructor of a pipeline with units takes besides components."""


T = TypeVar("T")


class _Made:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __get__(self, pipe: object, cls: type) -> Any:
        return self._make()


def made(make: Callable[[], T]) -> T:
    """A component that each pipeline makes for itself where none is given.

    `scheduler: Scheduler = made(DDPMScheduler)` is like `= DDPMScheduler()`, made when the pipeline is.
    """
    return cast(T, _Made(make))


def declared_components(cls: type, taken: Collection[str]) -> dict[str, Any]:
    """The type of each component that a class declares.

    Raises:
        GraphError: a type that cannot be found at run time, or a name that every pipeline has already (`taken`).
    """
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError) as error:
        raise GraphError(f"{cls.__name__}: {unresolved(cls, error)}") from None
    declared = {
        n: h for n, h in hints.items() if not n.startswith("_") and n not in SETTINGS and get_origin(h) is not ClassVar
    }
    for name in declared:
        if name in taken:
            raise GraphError(
                f"{cls.__name__}: a component cannot be named {name!r}, which every pipeline has; rename it"
            )
    return declared


def declared_settings(declared: Mapping[str, Any]) -> frozenset[str]:
    """The names among a pipeline's components that are plain values: `force_zeros_for_empty_prompt: bool = True`.

    A repository's index holds them as they are, and units take them after `*` like any component.
    """
    return frozenset(name for name, hint in declared.items() if bare(hint) in (bool, int, float, str))


def constructor_parameters(cls: type) -> list[inspect.Parameter]:
    """The named parameters of a free-form pipeline's constructor."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def check_component(owner: str, name: str, value: Any, hint: Any) -> None:
    """Raise `ComponentError` when a component is not of its declared type."""
    kinds = [m for m in members(hint) if m is not type(None)]
    if value is not None and not any(_admits(kind, value) for kind in kinds):
        wanted = spell(bare(hint))
        raise ComponentError(f"{owner}.{name} must be {spell(hint)}, got {got_instead(value, wanted)}")


def _admits(kind: Any, value: Any) -> bool:
    if isinstance(kind, ClassRef):
        return kind.admits(value)
    try:
        return kind is Any or isinstance(value, get_origin(kind) or kind)
    except TypeError:
        return True  # a protocol that cannot be checked at run time: the graph's own check is the judge


def loaded_type(hint: Any) -> Any:
    """The type that loading checks a component against: a class, a `"library:Class"`, a tuple of several of them, or
    None for any."""
    several = members(bare(hint))
    if len(several) > 1 and any(getattr(m, "_is_protocol", False) for m in several):
        return None
    kinds = tuple(m.path if isinstance(m, ClassRef) else m for m in several)
    if not all(isinstance(kind, type | str) and kind is not Any for kind in kinds):
        return None
    return kinds if len(kinds) > 1 else kinds[0]


def may_be_absent(cls: type, name: str, hint: Any) -> bool:
    """Whether a repository may go without a component: it may be None, or the class has one of its own."""
    return accepts_none(hint) or getattr(cls, name, None) is not None


def wanted_components(
    cls: type, declared: Mapping[str, Any] | None, settings: Collection[str]
) -> tuple[dict[str, Any], set[str]]:
    """The components that a class takes, with the types that loading checks, and those that may be absent.

    Args:
        declared: the types of a pipeline with units; None for a free-form one, whose constructor's parameters are its
            components, but for those that the index holds as `settings`.
    """
    if declared is not None:
        optional = {name for name, hint in declared.items() if may_be_absent(cls, name, hint)}
        return {name: loaded_type(hint) for name, hint in declared.items()}, optional
    named = [p for p in constructor_parameters(cls) if p.name not in settings]
    return dict.fromkeys(p.name for p in named), {p.name for p in named if p.default is not p.empty}
