"""Models that pydantic validates, declared without importing it.

A class derived from `Described` is declared like one of pydantic's, with the same words: `Field`, `model_validator`,
`PositiveInt` and the others are found here under pydantic's names, and pydantic's own are taken as well. The model
itself is built when it is first asked for: when one is made, or when its fields or its schema are read. Declaring one
reads its names, types and defaults alone, so that importing a pipeline imports no validation.
"""

import copyreg
import inspect
import sys
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from threading import RLock
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from pydantic import (
        AliasChoices,
        BaseModel,
        BeforeValidator,
        Field,
        NonNegativeInt,
        PlainSerializer,
        PositiveFloat,
        PositiveInt,
        model_validator,
    )
    from pydantic.fields import FieldInfo

__all__ = [
    "AliasChoices",
    "BeforeValidator",
    "Described",
    "DescribedField",
    "Field",
    "NonNegativeInt",
    "PlainSerializer",
    "PositiveFloat",
    "PositiveInt",
    "described_fields",
    "model_validator",
]

_REQUIRED: Any = ...
_BUILDING = RLock()
_OF_THE_CLASS = ("__module__", "__qualname__", "__doc__", "__classcell__", "__orig_bases__")


class DescribedField(NamedTuple):
    """One field as it is declared.

    Attributes:
        annotation: its type, without what `Annotated` attaches to the whole of it.
        metadata: what is attached.
        required: whether it has no default.
        default: None where it is required.
        description: what it is for.
    """

    annotation: Any
    metadata: tuple[Any, ...]
    required: bool
    default: Any
    description: str


class _Later:
    """A call of pydantic's that is made when the model is built. In `Annotated` it stands for what it will be."""

    __is_annotated_types_grouped_metadata__ = True

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs

    def __repr__(self) -> str:
        return f"{self.name}({', '.join([*map(repr, self.args), *(f'{n}={v!r}' for n, v in self.kwargs.items())])})"

    def made(self) -> Any:
        import pydantic

        return getattr(pydantic, self.name)(*map(_made, self.args), **{n: _made(v) for n, v in self.kwargs.items()})

    def __iter__(self) -> Iterator[Any]:
        found = self.made()
        yield from found.metadata if self.name == "Field" else (found,)


class _Validator:
    """A method that checks the model once it is built."""

    def __init__(self, decorate: _Later, method: Any) -> None:
        self.decorate, self.method = decorate, method


def _made(value: Any) -> Any:
    """What a value that waits for pydantic will be; others as they are."""
    if isinstance(value, _Validator):
        return value.decorate.made()(value.method)
    return value.made() if isinstance(value, _Later) else value


def _made_type(hint: Any) -> Any:
    """A type whose own `Annotated` holds pydantic's fields, which merges them with the default's."""
    if get_origin(hint) is not Annotated or not any(isinstance(m, _Later) for m in get_args(hint)[1:]):
        return hint
    kept, *attached = get_args(hint)
    return Annotated[(kept, *map(_made, attached))]


if not TYPE_CHECKING:

    def _later(name: str) -> Callable[..., _Later]:
        def call(*args: Any, **kwargs: Any) -> _Later:
            return _Later(name, args, kwargs)

        call.__name__ = call.__qualname__ = name
        return call

    Field = _later("Field")
    AliasChoices = _later("AliasChoices")
    BeforeValidator = _later("BeforeValidator")
    PlainSerializer = _later("PlainSerializer")
    PositiveInt = Annotated[int, Field(gt=0)]
    NonNegativeInt = Annotated[int, Field(ge=0)]
    PositiveFloat = Annotated[float, Field(gt=0)]

    def model_validator(*, mode: str) -> Callable[[Any], _Validator]:
        return lambda method: _Validator(_Later("model_validator", (), {"mode": mode}), method)


class _DescribedType(ABCMeta):
    """The class of described classes: it keeps a class body until its model is built from it."""

    _body: dict[str, Any]
    _built: Any

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> "_DescribedType":
        kwargs.pop("__pydantic_reset_parent_namespace__", None)  # of pydantic's create_model, which works as well
        module = kwargs.pop("_create_model_module", None)
        body = body | ({"__module__": module} if module else {})
        kept = {n: body[n] for n in _OF_THE_CLASS if n in body}
        annotations = {n: hint for n, hint in body.get("__annotations__", {}).items() if n != "model_config"}
        body |= {"__annotations__": annotations}
        made = super().__new__(cls, name, bases, kept | {"__annotations__": annotations})
        if any(isinstance(hint, str) for hint in annotations.values()):
            body["__annotations__"] = _resolved(made, sys._getframe(1).f_locals) or annotations
        made._body, made._built = {**body, **({"__kwargs__": kwargs} if kwargs else {})}, None
        made._refuse_untyped()
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, body)

    @property
    def _model(cls) -> Any:
        """The model, built at the first use."""
        if cls._built is None:
            with _BUILDING:
                if cls._built is None:
                    cls._built = _build(cls)
        return cls._built

    def _refuse_untyped(cls) -> None:
        """Raise `TypeError` for a default without a type, which would be no field."""
        for name, value in cls._body.items():
            unnamed = name.startswith("_") or name == "model_config" or name in cls._body["__annotations__"]
            if not unnamed and (isinstance(value, _Later) or not _is_code(value)):
                kind = "<type>" if isinstance(value, _Later) else type(value).__name__
                raise TypeError(f"{cls.__name__}.{name} needs a type: write {name}: {kind} = ...")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._model(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith(("model_", "__pydantic", "__signature__")) or any(
            name in base.__dict__.get("_body", ()) for base in cls.__mro__
        ):
            return getattr(cls._model, name)
        raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")

    def __getitem__(cls, types: Any) -> Any:
        return cls._model[types]

    def __setattr__(cls, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(
                f"{name!r} of {cls.__name__} cannot be set: its model is built from what the class was declared with; "
                "write it in the class, or in one derived from it"
            )
        super().__setattr__(name, value)

    def __dir__(cls) -> list[str]:
        bodies = [base._body for base in cls.__mro__ if isinstance(base, _DescribedType)]
        declared = {name for body in bodies for name in (*body, *body["__annotations__"])}
        return sorted({*super().__dir__(), *declared} - {"_body", "_built"})

    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler.generate_schema(cls._model)

    def __instancecheck__(cls, value: object) -> bool:
        return cls._built is not None and isinstance(value, cls._built)

    def __subclasscheck__(cls, other: type) -> bool:
        if type.__subclasscheck__(cls, other):
            return True
        return cls._built is not None and not isinstance(other, _DescribedType) and issubclass(other, cls._built)


def _is_code(value: Any) -> bool:
    return isinstance(value, property | classmethod | staticmethod | _Validator | type) or callable(value)


def _resolved(cls: type, surroundings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The class's own types where some are written as text; None where they cannot be found yet."""
    try:
        hints = get_type_hints(cls, localns=dict(surroundings), include_extras=True)
    except (NameError, AttributeError):
        return None
    return {name: hints[name] for name in inspect.get_annotations(cls)}


def _build(cls: _DescribedType) -> Any:
    """Pydantic's model of a class, derived from those of its bases."""
    from pydantic import BaseModel

    bases = tuple(base._model if isinstance(base, _DescribedType) else base for base in cls.__bases__)
    body = {name: _made(value) for name, value in cls._body.items() if name not in ("__kwargs__", "__classcell__")}
    if bases == (object,):
        bases, body["__reduce__"] = (BaseModel,), _reduced
    body["__annotations__"] = {n: _made_type(hint) for n, hint in cls._body["__annotations__"].items()}
    body |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    kind: Any = type(BaseModel)
    made = kind(cls.__name__, bases, body, **cls._body.get("__kwargs__", {}))
    made.__described__ = cls
    if cell := cls._body.get("__classcell__"):
        cell.cell_contents = made  # for `super()` in its methods
    return made


def described_fields(cls: Any) -> dict[str, DescribedField]:
    """The fields of a described class by name, its bases' first.

    Pydantic is asked only about a class that was declared with its own words, or whose types are not known yet, or that
    has fields of a base which is not described.
    """
    fields: dict[str, DescribedField] = {}
    for base in reversed(cls.__mro__):
        if not isinstance(base, _DescribedType):
            if inspect.get_annotations(base):
                return {n: _of_pydantic(info) for n, info in cls.model_fields.items()}
            continue
        for name, hint in base._body["__annotations__"].items():
            if name.startswith("_") or get_origin(hint) is ClassVar:
                continue
            if (found := _field(hint, base._body.get(name, _REQUIRED))) is None:
                return {n: _of_pydantic(info) for n, info in cls.model_fields.items()}
            fields[name] = found
    return fields


def declared_methods(cls: Any) -> dict[str, Any]:
    """The methods of a described class by name, its validators too: those that a derived class has of them."""
    bodies = [base._body for base in reversed(cls.__mro__) if isinstance(base, _DescribedType)]
    fields = described_fields(cls)
    return {
        name: value
        for body in bodies
        for name, value in body.items()
        if name not in fields and name != "model_config" and not (name.startswith("__") and name.endswith("__"))
    }


def _field(hint: Any, default: Any) -> DescribedField | None:
    """One field; None where only pydantic can say."""
    annotation, metadata = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    said: Mapping[str, Any] = {}
    if isinstance(default, _Later):
        said = default.kwargs
        default = default.args[0] if default.args else said.get("default", _REQUIRED)
    merged = any(isinstance(m, _Later) and {"default", "description"} & m.kwargs.keys() for m in metadata)
    theirs = any(type(v).__module__.partition(".")[0] == "pydantic" for v in (default, *metadata))
    if merged or theirs or isinstance(hint, str) or "default_factory" in said:
        return None
    required = default is _REQUIRED
    return DescribedField(annotation, metadata, required, None if required else default, said.get("description", ""))


def _of_pydantic(info: "FieldInfo") -> DescribedField:
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    return DescribedField(info.annotation, tuple(info.metadata), info.is_required(), default, info.description or "")


def _reduced(self: Any) -> tuple[Any, ...]:
    """How an object is pickled: by the class that was declared, which is what its name finds."""
    model = type(self)
    is_declared = model.__described__._built is model  # a class may be derived from the model itself
    how = (_blank, (model.__described__,)) if is_declared else (copyreg.__newobj__, (model,))  # type: ignore[attr-defined]
    return *how, self.__getstate__()


def _blank(described: _DescribedType) -> Any:
    return described._model.__new__(described._model)


if TYPE_CHECKING:

    class Described(BaseModel):
        """A model of pydantic's, for a type checker."""

else:

    class Described(metaclass=_DescribedType):
        """What is declared here and validated by pydantic.

        Of the class, `isinstance` and pydantic's methods behave as of one of pydantic's own. `type(made)` is the model
        that was built: it has the class's name, and is derived from pydantic's `BaseModel`, which the class is not.
        """
