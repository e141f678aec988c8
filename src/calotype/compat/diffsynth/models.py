"""The models of a dialect pipeline: loading them, and having them on the device when they are needed."""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Self

import torch

from calotype.compat.diffsynth.scope import current_scope
from calotype.compat.diffsynth.unit import PipelineUnit
from calotype.compat.diffsynth.values import value_type
from calotype.errors import (
    ComponentError,
    ComponentNotLoaded,
    ConfigError,
    GraphError,
    InputError,
    UnknownInput,
    did_you_mean,
)
from calotype.graph.plan import in_bytes
from calotype.memory.amounts import indexed, parse_device
from calotype.memory.residency import Residency
from calotype.weights.pool.catalogue import CATALOGUE, Catalogue
from calotype.weights.pool.config import ModelConfig
from calotype.weights.pool.pool import ModelPool

GIB = 2**30


class HoldsModels:
    """A pipeline's models by name, with a budget for those that are on the device."""

    catalogue: ClassVar[Catalogue] = CATALOGUE
    """The networks that `download_and_load_models` recognises."""
    device: torch.device
    torch_dtype: torch.dtype
    units: list[PipelineUnit]
    in_iteration_models: Sequence[str]
    vram_limit: float | None = None
    _residency: Residency
    _own: frozenset[str]

    @property
    def models(self) -> dict[str, Any]:
        """Every model that `__init__` names; None where it is not loaded. A model is a network, or whatever a unit or
        the loop names as one."""
        if "_own" not in self.__dict__:
            raise GraphError(f"{type(self).__name__}.__init__ must call super().__init__(...) first")
        named = {n: v for n, v in vars(self).items() if n not in self._own and not n.startswith("_")}
        units = self.units if isinstance(self.units, list | tuple) else ()
        listed = {*self.in_iteration_models, *(n for u in units for n in getattr(u, "onload_model_names", ()))}
        return {
            n: v for n, v in named.items()
            if n != "scheduler" and (v is None or isinstance(v, torch.nn.Module) or n in listed)
        }  # fmt: skip

    def download_and_load_models(
        self, model_configs: Sequence[ModelConfig] = (), vram_limit: float | None = None
    ) -> ModelPool:
        """The pool of the models in some files, to fetch them from by name.

        Args:
            vram_limit: the most GiB of models on the device at once, of which a CPU is one. Before a unit runs, models
                that are needed later than others leave until there is room; the layers of one that does not fit take
                turns. What leaves a CPU is read from its file again.

        Raises:
            InputError: `vram_limit` is no number above 0.
            ConfigError: a `ModelConfig` asks for a use of memory that there is none of, or for another device than the
                pipeline's.
        """
        _refuse_other_devices(model_configs, self.device)
        if vram_limit is not None:
            self._limit(vram_limit)
        limited = self._residency.budget is not None
        return ModelPool(
            model_configs, dtype=self.torch_dtype, device=self.device, catalogue=self.catalogue, deferred=limited
        )

    def _limit(self, vram_limit: float) -> None:
        number = isinstance(vram_limit, int | float) and not isinstance(vram_limit, bool)
        if not number or not math.isfinite(vram_limit) or vram_limit <= 0:
            raise InputError(f"vram_limit is a number of GiB above 0, got {vram_limit!r}")
        self.vram_limit = vram_limit
        self._residency = Residency(models_of(self), self.device, int(vram_limit * GIB))

    def check_vram_management_state(self) -> bool:
        """Whether models leave the device to make room: there is a `vram_limit`."""
        return self._residency.budget is not None

    def load_models_to_device(self, model_names: Iterable[str]) -> None:
        """Have these models on the device, until the call asks for others or ends; `[]` lets go of them all.

        Raises:
            UnknownInput: the pipeline names no such model.
            ComponentNotLoaded: none of them was loaded.
            ComponentError: together they are larger than `vram_limit`.
        """
        names, models = _listed(model_names), self.models
        for name in names:
            if name not in models:
                raise UnknownInput(
                    f"load_models_to_device: {type(self).__name__} has no model {name!r}{did_you_mean(name, models)}"
                )
        parts = {n: models[n] for n in names if models[n] is not None}
        if names and not parts:
            raise ComponentNotLoaded(
                f"{type(self).__name__} needs {' and '.join(map(repr, names))}, but was loaded without. Add a "
                f"ModelConfig of its files to model_configs, or set pipe.{names[0]} = ..."
            )
        self._refuse_too_large(parts, "load_models_to_device")
        scope = current_scope()
        if scope is None or scope.pipe is not self:
            with self._residency.hold(parts):
                return
        scope.let_go()
        scope.hold(self._residency.hold(parts), frozenset(parts))

    @contextmanager
    def holding(self, unit: PipelineUnit) -> Iterator[None]:
        """A unit's models on the device while it runs. Raises as `load_models_to_device` does."""
        models = self.models
        for name in unit.onload_model_names:
            if name not in models:
                raise GraphError(
                    f"{unit.name}: onload_model_names names {name!r}, which {type(self).__name__} has no model of"
                    f"{did_you_mean(name, models)}"
                )
        parts = {n: models[n] for n in unit.onload_model_names if models[n] is not None}
        self._refuse_too_large(parts, unit.name)
        scope = current_scope()
        if scope is not None and scope.pipe is self:
            scope.let_go()  # nothing is held while waiting for room, so that two calls cannot wait for each other
        with self._residency.hold(parts, self._upcoming(unit)):
            yield

    def hold_loop(self) -> None:
        """The loop's models on the device, if they are not held there already."""
        loaded = frozenset(n for n in self.in_iteration_models if self.models[n] is not None)
        scope = current_scope()
        if loaded and not (scope is not None and scope.pipe is self and loaded <= scope.holding):
            self.load_models_to_device(sorted(loaded))

    def _upcoming(self, unit: PipelineUnit) -> list[frozenset[str]]:
        """The models of each later unit and of the loop, soonest first."""
        at = next((i for i, u in enumerate(self.units) if u is unit), len(self.units))
        return [frozenset(u.onload_model_names) for u in self.units[at + 1 :]] + [frozenset(self.in_iteration_models)]

    def _refuse_too_large(self, parts: Mapping[str, Any], who: str) -> None:
        budget = self._residency.budget
        if budget is None:
            return
        wanted = self._residency.least(parts)
        if wanted > budget:
            enough = math.ceil(wanted / GIB * 1000) / 1000
            raise ComponentError(
                f"{who}: {', '.join(sorted(parts))} must be on {self._residency.device} together and take "
                f"{in_bytes(wanted)}, but vram_limit is {in_bytes(budget)}; give vram_limit={enough} or more"
            )

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Run on another device, or convert the models and the values between units to another type."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        kind = None if dtype is None else value_type(dtype)
        target = None if device is None else parse_device(device)
        for model in self.models.values():
            if isinstance(model, torch.nn.Module):
                with nullcontext() if kind is None else self._residency.restored(model):
                    model.to(device=None if self._residency.budget else target, dtype=kind)
        if kind is not None:
            self.torch_dtype = kind
        if target is not None:
            self.device = target
            self._residency.relocate(target)
        return self

    def freeze_except(self, model_names: Iterable[str]) -> None:
        """Train these models alone.

        Raises:
            UnknownInput: a name that is no model.
            ComponentNotLoaded: a model that was not loaded.
            ComponentError: a model that is no network.
        """
        names, models = _listed(model_names), self.models
        for name in names:
            if name not in models:
                raise UnknownInput(
                    f"freeze_except: {type(self).__name__} has no model {name!r}{did_you_mean(name, models)}"
                )
            if models[name] is None:
                raise ComponentNotLoaded(f"freeze_except: {name!r} is to be trained, but was not loaded")
            if not isinstance(models[name], torch.nn.Module):
                raise ComponentError(f"freeze_except: {name!r} is a {type(models[name]).__name__}, not a network")
        for name, model in models.items():
            if isinstance(model, torch.nn.Module):
                model.train(name in names).requires_grad_(name in names)


def _listed(names: object) -> tuple[str, ...]:
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise InputError(f"give the names of models, such as ('text_encoder',), got {names!r}")
    return (names,) if isinstance(names, str) else tuple(names)


def _refuse_other_devices(configs: Sequence[ModelConfig] | ModelConfig, device: torch.device) -> None:
    """Raise `ConfigError` for a network that would compute elsewhere: values between units are on one device."""
    for config in configs if isinstance(configs, list | tuple) else (configs,):
        if not isinstance(config, ModelConfig) or config.computation_device is None:
            continue  # what is none is refused by the pool
        where = parse_device(config.computation_device)
        if indexed(where) != indexed(device):
            raise ConfigError(
                f"{config.place}: computation_device={str(where)!r}, but a pipeline with a __call__ of its own runs on "
                f"one device, which is {str(device)!r}; leave it out, or make the pipeline with device={str(where)!r}"
            )


def models_of(pipe: HoldsModels) -> Callable[[], Mapping[str, Any]]:
    """A way to ask for a pipeline's models that does not keep it alive."""
    there = weakref.ref(pipe)

    def models() -> Mapping[str, Any]:
        found = there()
        return {} if found is None else found.models

    return models
