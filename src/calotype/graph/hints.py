"""Reading type hints: which admit `None`, which are mapped over lists, and whether one wire fits another.

Types are compared by array type, dtype family and rank; axis names document, they do not decide.
"""

import inspect
import types
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NewType,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from calotype._names import OF_TRANSFORMERS, PUBLIC
from calotype.graph.branches import Branches

T = TypeVar("T")

Each: TypeAlias = T | list[T]
"""An input that may be one value or a list of them: the engine maps over the list, an item each."""


@dataclass(frozen=True)
class Pad:
    """How a wire of arrays that differ in length along `dim` becomes one batch: `Annotated[Tensor, Pad(1)]`.

    Shorter ones are filled up with `value` at the end. A wire whose type does not declare it needs equal shapes.

    Raises:
        TypeError: `dim` is 0, which is the batch.
    """

    dim: int
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.dim == 0:
            raise TypeError("Pad(0) would fill up the batch itself; name the dimension whose length differs")


class OnlySettings:
    """What `Settings` attaches."""


Settings: TypeAlias = Annotated[T, OnlySettings()]
"""A component that a unit only looks at, for its configuration: `*, unet: Settings[UNet2DConditionModel]`. Its weights
need not be on the device, and training them does not concern the unit."""


class ClassRef:
    """A class by name, so that a slow library is imported only when it is needed: `ClassRef("PIL.Image:Image")`.

    In `Annotated` it stands for the class where types of wires are compared.
    """

    def __init__(self, path: str) -> None:
        library, colon, name = path.partition(":")
        if not (library and colon and name):
            raise TypeError(f"a class is named 'library:Class', got {path!r}")
        self.path, self.library, self.name = path, library, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassRef) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return self.name

    def admits(self, value: object) -> bool:
        """Whether an object is of the named class, or of a class derived from it, without importing anything."""
        return self.names(type(value))

    def names(self, cls: type) -> bool:
        """Whether a class, or one that it is derived from, is the named one, without importing anything."""
        return self.name in _names_of(cls, {self.library.partition(".")[0]})

    def load(self) -> Any:
        """The class itself."""
        return getattr(import_module(self.library), self.name)


class ComponentRef(ClassRef):
    """A component class by name; its library is the package that an index of components names."""

    def __repr__(self) -> str:
        return f'Component["{self.path}"]'

    def names(self, cls: type) -> bool:
        """Whether a class, or one that it is derived from, is the named one, or calotype's own of that name.

        transformers has its image processors twice, and `CLIPImageProcessor` is `CLIPImageProcessorPil` where
        torchvision is not installed.
        """
        own = self.library == "transformers" and self.name in OF_TRANSFORMERS
        found = _names_of(cls, {self.library, "calotype"} if own else {self.library})
        return self.name in found or (self.name.endswith("ImageProcessor") and f"{self.name}Pil" in found)


def _names_of(cls: type, libraries: Collection[str]) -> set[str]:
    """The names of those classes that a class is or is derived from which are of some libraries."""
    return {c.__name__ for c in cls.__mro__ if c.__module__.partition(".")[0] in libraries}


class Component:
    """`Component["transformers:CLIPTextModel"]`: a component type that is resolved when it is loaded."""

    def __class_getitem__(cls, path: str) -> Any:
        return Annotated[Any, ComponentRef(path)]


def got_instead(value: Any, wanted: str) -> str:
    """What was found where a component was wanted, for a message: its class, and what to type where it is the class
    itself or a word for one."""
    if isinstance(value, type):
        return f"the class {value.__name__}; write {value.__name__}()"
    if not isinstance(value, str):
        return type(value).__name__
    word = "".join(filter(str.isalnum, value)).lower()
    of_kind = [name for name in PUBLIC if name.endswith(wanted) and name != wanted]
    near = sorted((name for name in of_kind if word and name.lower().startswith(word)), key=len)
    return f"str {value!r}{f'; did you mean {near[0]}()?' if near else ''}"


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union with `Annotated` unwrapped, `None` included; one member for anything else."""
    hint = unannotated(hint)
    if not is_union(hint):
        return (hint,)
    return tuple(m for arg in get_args(hint) for m in members(arg))


def unannotated(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        ref = class_ref(hint)
        if ref is not None:
            return ref
        hint = get_args(hint)[0]
    return hint


def class_ref(hint: Any) -> ClassRef | None:
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((m for m in metadata if isinstance(m, ClassRef)), None)


def metadata_of(hint: Any) -> tuple[Any, ...]:
    """Everything that `Annotated` attached, at any level of the hint's union."""
    found: list[Any] = []
    if get_origin(hint) is Annotated:
        found += get_args(hint)[1:]
        found += metadata_of(get_args(hint)[0])
    elif is_union(hint):
        for arg in get_args(hint):
            found += metadata_of(arg)
    return tuple(found)


def accepts_none(hint: Any) -> bool:
    return any(m is Any or m is None or m is type(None) for m in members(hint))


def bare(hint: Any) -> Any:
    """The hint without `None` and `Annotated`; a union of what remains where there are several members."""
    rest = [m for m in members(hint) if m is not type(None) and m is not None]
    if not rest:
        return type(None)
    return Union[tuple(rest)] if len(rest) > 1 else rest[0]  # noqa: UP007 - built at run time


def item_hint(hint: Any) -> tuple[Any, bool]:
    """The type of one item of an input, and whether the input may be a list of items (`T | list[T]`)."""
    parts = members(hint)
    lists = [m for m in parts if get_origin(m) is list and unannotated(get_args(m)[0]) in parts]
    if not lists:
        return hint, False
    return Union[tuple(m for m in parts if m not in lists)], True  # noqa: UP007 - built at run time


def branches_of(hint: Any) -> Any | None:
    """`T` of `Branches[T]`, or None for any other hint."""
    stripped = bare(hint)
    return get_args(stripped)[0] if get_origin(stripped) is Branches else None


def fits(made: Any, wanted: Any) -> bool:
    """Whether every value of type `made` can go where `wanted` is read, leaving `None` aside."""
    options = [m for m in members(wanted) if m is not type(None)]
    return all(m in options or any(_fits_one(m, w) for w in options) for m in members(made) if m is not type(None))


def _fits_one(made: Any, wanted: Any) -> bool:
    if made is Any or wanted is Any or made == wanted:
        return True
    if isinstance(made, NewType):
        return not isinstance(wanted, NewType) and fits(made.__supertype__, wanted)
    if isinstance(wanted, NewType) or isinstance(made, TypeVar | str | ForwardRef):
        return False
    if isinstance(wanted, ClassRef):
        return isinstance(made, type) and wanted.names(made)
    if type(made) is ClassRef:
        made = made.load()
    if _is_array(made) or _is_array(wanted):
        return _arrays_fit(made, wanted)
    if Literal in (get_origin(made), get_origin(wanted)):
        return _literals_fit(made, wanted)
    made_class, wanted_class = get_origin(made) or made, get_origin(wanted) or wanted
    if made_class is int and wanted_class is float:
        return True
    if not (isinstance(made_class, type) and isinstance(wanted_class, type)):
        return False
    if getattr(wanted_class, "_is_protocol", False):
        return _has_members_of(made_class, wanted_class)
    if not issubclass(made_class, wanted_class):
        return False
    if made_class is wanted_class and get_args(made) and get_args(wanted):
        return len(get_args(made)) == len(get_args(wanted)) and all(
            a is b or fits(a, b) for a, b in zip(get_args(made), get_args(wanted), strict=True)
        )
    return True


def _literals_fit(made: Any, wanted: Any) -> bool:
    if get_origin(made) is not Literal:
        return False
    if get_origin(wanted) is Literal:
        return set(get_args(made)) <= set(get_args(wanted))
    return all(fits(type(value), wanted) for value in get_args(made))


def _has_members_of(made: type, protocol: type) -> bool:
    """Whether a class has every member that a protocol asks for, by name: signatures are a type checker's work."""
    asked = [c for c in protocol.__mro__ if getattr(c, "_is_protocol", False) and c is not Protocol]
    names = {n for c in asked for n in (*vars(c), *vars(c).get("__annotations__", {})) if _is_asked(n, vars(c).get(n))}
    declared = {n for c in made.__mro__ for n in (*vars(c), *vars(c).get("__annotations__", {}))}
    return names <= declared


def _is_asked(name: str, member: Any) -> bool:
    if name.startswith("__"):
        return inspect.isfunction(member) and name not in ("__init__", "__subclasshook__")
    return not name.startswith("_")


def _is_array(hint: Any) -> bool:
    return hasattr(hint, "array_type") and hasattr(hint, "dtypes") and hasattr(hint, "dims")


def _arrays_fit(made: Any, wanted: Any) -> bool:
    made_type = made.array_type if _is_array(made) else made
    wanted_type = wanted.array_type if _is_array(wanted) else wanted
    if not fits(made_type, wanted_type):
        return False
    if not (_is_array(made) and _is_array(wanted)):
        return True
    ranks = (_rank(made), _rank(wanted))
    if None not in ranks and ranks[0] != ranks[1]:
        return False
    return _any_dtype(made) or _any_dtype(wanted) or bool(set(made.dtypes) & set(wanted.dtypes))


def _any_dtype(hint: Any) -> bool:
    return not isinstance(hint.dtypes, list | tuple)


def _rank(hint: Any) -> int | None:
    words = hint.dim_str.split()
    return None if any(w == "..." or w.lstrip("#?_").startswith("*") for w in words) else len(words)


def spell(hint: Any) -> str:
    """A hint as a person writes it: `Tensor | None`, `Float[Tensor, 'b c h w']`."""
    parts = members(hint)
    if len(parts) > 1:
        return " | ".join(dict.fromkeys(spell(p) for p in parts))
    only = parts[0]
    if only is type(None) or only is None:
        return "None"
    if only is Any or only is ...:
        return "Any" if only is Any else "..."
    if get_args(only):
        name = getattr(get_origin(only), "__name__", str(get_origin(only)))
        return f"{name}[{', '.join(spell(a) for a in get_args(only))}]"
    return getattr(only, "__name__", None) or repr(only)
