"""What a unit sees: the pipeline without the models that it does not declare, and the values that it does."""

import inspect
import types
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from calotype.compat.diffsynth.unit import SIDES, PipelineUnit
from calotype.errors import ComponentNotLoaded, GraphError, did_you_mean

_LOOP = frozenset({"engine", "model_fn"})
"""What a unit has no part in."""


class PipelineView:
    """The pipeline as the `process` of one unit sees it.

    It has the pipeline's attributes and methods, but of its models only those in `onload_model_names`, and nothing can
    be set on it: what a unit makes goes into what it returns.
    """

    def __init__(self, pipe: Any, unit: PipelineUnit, trigger: str = "", scheduler: Any = None) -> None:
        self.__dict__.update(_pipe=pipe, _unit=unit, _trigger=trigger)
        if scheduler is not None:
            self.__dict__["scheduler"] = scheduler

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._pipe)

    def __getattr__(self, name: str) -> Any:
        pipe = self.__dict__["_pipe"]
        if name in pipe.models:
            return self._model(name)
        if name == "models":
            return _Models(self)
        if name in _LOOP:
            raise GraphError(f"{self._unit.name} uses pipe.{name}, which runs the units and the loop around them")
        own = inspect.getattr_static(type(pipe), name, None)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if not hasattr(pipe, name):
            raise AttributeError(
                f"{self._unit.name} uses pipe.{name}, which {type(pipe).__name__} does not have"
                f"{did_you_mean(name, pipe.models)}"
            )
        value = getattr(pipe, name)
        method = isinstance(value, types.MethodType) and value.__self__ is pipe
        return types.MethodType(value.__func__, self) if method else value

    def __setattr__(self, name: str, value: Any) -> None:
        raise GraphError(
            f"{self._unit.name} sets pipe.{name}, which every call would share; return it as an output instead"
        )

    def load_models_to_device(self, model_names: Any) -> None:
        """The unit's models are on the device while it runs; this checks that no others are asked for."""
        unit = self._unit
        names = (model_names,) if isinstance(model_names, str) else tuple(model_names)
        if not names and unit.onload_model_names:
            raise GraphError(
                f"{unit.name} calls pipe.load_models_to_device([]); its models leave the device when room is needed, "
                "so leave it out"
            )
        for name in names:
            self._model(name)

    def _model(self, name: str) -> Any:
        """A model that the unit declares and that is loaded."""
        pipe, unit = self._pipe, self._unit
        value = pipe.models.get(name)
        if name not in unit.onload_model_names and value is not None:
            raise GraphError(
                f"{unit.name} uses the model {name!r}, which is not in its onload_model_names"
                f"{did_you_mean(name, unit.onload_model_names)}; add {name!r}"
            )
        if value is None:
            refuse_not_loaded(pipe, unit, name, self._trigger)
        return value


class _Models(Mapping[str, Any]):
    """`pipe.models` as a unit sees it: those that it declares."""

    def __init__(self, view: PipelineView) -> None:
        self._view = view

    def __getitem__(self, name: str) -> Any:
        return self._view._model(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._view._unit.onload_model_names)

    def __len__(self) -> int:
        return len(self._view._unit.onload_model_names)


def refuse_not_loaded(pipe: Any, unit: PipelineUnit, name: str, trigger: str) -> None:
    """Raise `ComponentNotLoaded` for a model that a unit needs."""
    if name not in pipe.models:
        known = did_you_mean(name, pipe.models)
        raise GraphError(f"{unit.name} uses pipe.{name}, which {type(pipe).__name__} does not have{known}")
    because = f" (because {trigger} was given)" if trigger else ""
    raise ComponentNotLoaded(
        f"{unit.name} needs {name!r}{because}, but this {type(pipe).__name__} was loaded without it. Add a ModelConfig "
        f"of its files to model_configs, or set pipe.{name} = ...; a unit with nothing to do returns {{}} before it "
        "touches a model"
    )


class Part(MutableMapping[str, Any]):
    """One of the three parts as a take-over unit sees it: the names that it declares, and no others.

    `part["name"]` of a declared name that nothing provides is an error with the nearest name; `part.get("name")` is
    None.
    """

    def __init__(self, unit: PipelineUnit, side: str, values: Mapping[str, Any]) -> None:
        self._unit, self._side, self._values = unit, side, values
        self.written: dict[str, Any] = {}
        self._readable = frozenset(declared_reads(unit)) | frozenset(unit.output_params)

    def __getitem__(self, name: str) -> Any:
        if name in self.written:
            return self.written[name]
        self._refuse_undeclared(name)
        if name not in self._values:
            raise Absent(
                f"{self._unit.name} reads {self._side}[{name!r}], which nothing provides"
                f"{did_you_mean(name, self._values)}; write {self._side}.get({name!r}) if it may be left out"
            )
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and name not in self.written:
            self._refuse_undeclared(name)
        return name in self.written or name in self._values

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._unit.output_params:
            raise GraphError(
                f"{self._unit.name} writes {self._side}[{name!r}] without declaring it"
                f"{did_you_mean(name, self._unit.output_params)}; add it to output_params"
            )
        self.written[name] = value

    def __delitem__(self, name: str) -> None:
        raise GraphError(f"{self._unit.name} removes {self._side}[{name!r}]; set it to None instead")

    def __iter__(self) -> Iterator[str]:
        return iter([*(n for n in self._values if n in self._readable and n not in self.written), *self.written])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _refuse_undeclared(self, name: str) -> None:
        if name not in self._readable:
            raise GraphError(
                f"{self._unit.name} reads {self._side}[{name!r}] without declaring it"
                f"{did_you_mean(name, self._readable)}; add it to input_params"
            )


class Absent(GraphError, KeyError):
    """A declared name that nothing provides: a `KeyError`, so that `.get` answers None."""

    def __str__(self) -> str:
        return str(self.args[0])


def declared_reads(unit: PipelineUnit) -> tuple[str, ...]:
    """Every name that a unit declares to read, of all parts."""
    return tuple(
        dict.fromkeys((*unit.input_params, *unit.input_params_posi.values(), *unit.input_params_nega.values()))
    )


def taken_back(unit: PipelineUnit, given: tuple[Part, Part, Part], returned: Any) -> list[dict[str, Any]]:
    """What a take-over unit wrote to each part, from what it returned: the parts themselves, or mappings of its own.

    Raises:
        GraphError: it did not return three mappings, or one of its own holds an undeclared name.
    """
    if not (isinstance(returned, tuple | list) and len(returned) == 3):
        raise GraphError(f"{unit.name}: process must return {', '.join(SIDES)}, got {type(returned).__name__}")
    for side, part, back in zip(SIDES, given, returned, strict=True):
        if not isinstance(back, Mapping):
            raise GraphError(f"{unit.name}: process must return a mapping for {side}, got {type(back).__name__}")
        if back is part:
            continue
        for name, value in back.items():
            if isinstance(back, Part) or name not in part._values or part._values[name] is not value:
                part[name] = value
    return [part.written for part in given]
