"""`BasePipeline`: what a pipeline of the dialect derives from."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from calotype.compat.diffsynth.calls import call_parameters, takes_any_keyword
from calotype.compat.diffsynth.checks import check_pipeline, check_units, refuse_no_plain_call
from calotype.compat.diffsynth.graph import engine_class
from calotype.compat.diffsynth.loop import ModelFn, refuse_ignored
from calotype.compat.diffsynth.models import HoldsModels, models_of
from calotype.compat.diffsynth.nodes import DialectTakeOver, DialectUnit
from calotype.compat.diffsynth.runner import PipelineUnitRunner
from calotype.compat.diffsynth.scheduler import FlowMatchScheduler
from calotype.compat.diffsynth.scope import call_scope, current_scope
from calotype.compat.diffsynth.unit import PipelineUnit
from calotype.compat.diffsynth.values import Values, value_type
from calotype.compat.diffsynth.view import refuse_not_loaded
from calotype.errors import GraphError, InputError, MissingInput, UnknownInput, did_you_mean
from calotype.graph.node import Active
from calotype.graph.plan import Plan
from calotype.graph.split import Split
from calotype.memory.residency import Residency, parse_device
from calotype.pipelines.base import DiffusionPipeline
from calotype.sampling.guidance.classifier_free import away_from


class _Checked(type):
    """Checks a pipeline's declarations as soon as its constructor has returned."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        pipe = super().__call__(*args, **kwargs)
        pipe.check()
        return pipe


class BasePipeline(HoldsModels, Values, metaclass=_Checked):
    """A pipeline of units, a loop over `model_fn`, and a `__call__` of its own that puts them together.

    A subclass names its models in `__init__` (`self.dit = None`), lists its `units`, and sets `scheduler`, `model_fn`
    and `in_iteration_models`. As soon as it is made, and again when it is called, these are checked against one
    another. One pipeline serves several threads: what a call sets on the scheduler is that call's own, and nothing
    can be set on the pipeline during a call.

    Args:
        device: where models run and values are; by default the first GPU there is, else the CPU.
        torch_dtype: the type of values between units.
        height_division_factor, width_division_factor: what sides must be a multiple of, in pixels.
        time_division_factor, time_division_remainder: what the number of frames must be a multiple of, plus what.

    Raises:
        GraphError: a declaration is wrong.
        InputError: there is no such device.
    """

    scheduler: Any = None

    def __init__(
        self,
        device: torch.device | str | None = None,
        torch_dtype: torch.dtype | str = torch.float16,
        height_division_factor: int = 64,
        width_division_factor: int = 64,
        time_division_factor: int | None = None,
        time_division_remainder: int | None = None,
    ) -> None:
        self.device = parse_device(device)
        self.torch_dtype = value_type(torch_dtype)
        self.height_division_factor, self.width_division_factor = height_division_factor, width_division_factor
        self.time_division_factor, self.time_division_remainder = time_division_factor, time_division_remainder
        self.vram_limit = None
        self.vram_management_enabled = False
        self.in_iteration_models = ()
        self.units = []
        self.unit_runner = PipelineUnitRunner()
        self._model_fn: Callable[..., Any] | None = None
        self._checked: Any = None
        self._engine: DiffusionPipeline | None = None
        self._residency = Residency(models_of(self), self.device)
        self._own = frozenset(self.__dict__)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__:
            refuse_no_plain_call(cls)
            setattr(cls, "__call__", _as_call(cls.__dict__["__call__"]))  # noqa: B010 - a method of instances

    def __setattr__(self, name: str, value: Any) -> None:
        scope = current_scope()
        if scope is not None and scope.pipe is self and not name.startswith("_"):
            raise GraphError(
                f"{type(self).__name__} sets pipe.{name} during a call, which other calls would see; pass it on in "
                "inputs_shared"
            )
        if isinstance(value, torch.nn.Module) and self.__dict__.get("_checked") and name not in self.models:
            raise GraphError(
                f"{type(self).__name__} has no model {name!r}{did_you_mean(name, self.models)}; declare one with "
                f"self.{name} = None in __init__"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        held = [f"{n}={'None' if m is None else type(m).__name__}" for n, m in self.models.items()]
        return f"{type(self).__name__}({', '.join(held)})"

    # -- declarations ----------------------------------------------------------------------------------------------

    @property
    def model_fn(self) -> Any:
        """What the loop calls to predict; None where none was set."""
        return None if self._model_fn is None else ModelFn(self, self._model_fn)

    @model_fn.setter
    def model_fn(self, fn: Callable[..., Any] | None) -> None:
        if fn is not None and not callable(fn):
            raise GraphError(f"{type(self).__name__}.model_fn must be a function, got {fn!r}")
        self._model_fn = fn

    def check(self) -> None:
        """Check what the units, `model_fn` and `__call__` declare, unless nothing changed since the last time. Runs
        when the pipeline is made and before every call. Raises `GraphError`."""
        models = tuple(self.models)
        check_units(type(self).__name__, self.units)
        declared = (tuple(self.units), self._model_fn, tuple(self.in_iteration_models), models, self.scheduler)
        if self._checked is None or not _same(declared, self._checked):
            check_pipeline(self, BasePipeline)
            self._checked, self._engine = declared, None

    # -- the engine ------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> DiffusionPipeline:
        """The same units, models and loop as one of calotype's pipelines: it plans, splits, draws, and runs up to the
        latents, for several images and prompts, with the memo. Its levels are those of
        `set_timesteps(num_inference_steps, denoising_strength)`, whatever else the pipeline's `__call__` sets.

        Raises:
            GraphError: the units do not fit together, or the loop is not one that the engine knows.
        """
        self.check()
        engine = self._engine
        if engine is None:
            engine = engine_class(self, BasePipeline)(device=self.device)
            self._engine = engine
        engine._residency = self._residency
        for name, value in {**self.models, "scheduler": self.scheduler}.items():
            if getattr(engine, name) is not value:
                setattr(engine, name, value)
        return engine

    def plan(self, **inputs: Any) -> Plan:
        """What a call with these inputs would run up to the end of the loop: units, models with their bytes, predicted
        peak. Inputs that only the code of `__call__` reads are left out.

        Raises:
            InputError: an input is unknown, missing, or read by nothing that runs.
            ComponentNotLoaded: a unit whose inputs are all there needs a model that was not loaded.
        """
        engine = self.engine
        known, taken = set(engine.Inputs.model_fields), set(call_parameters(type(self)))
        for name in inputs:
            if name not in known | taken:
                raise UnknownInput(f"plan: {name!r} is not an input{did_you_mean(name, known | taken)}")
        refuse_ignored(self, inputs)
        plan = engine.plan(**{name: value for name, value in inputs.items() if name in known})
        for planned in plan.nodes:
            if isinstance(planned.node, DialectUnit | DialectTakeOver):
                self._refuse_not_loaded(planned.node, plan.call.values, inputs)
        absent = {name for name, model in self.models.items() if model is None}
        nodes = tuple(replace(n, active=Active(n.active.reads, n.active.uses - absent)) for n in plan.nodes)
        return replace(plan, nodes=nodes)

    def _refuse_not_loaded(
        self, node: DialectUnit | DialectTakeOver, values: Mapping[str, Any], given: Mapping[str, Any]
    ) -> None:
        """Raise where a unit has all of its inputs and a model that it names was not loaded. Without one of them it may
        have nothing to do, which only it can say."""
        if any(values.get(w, ...) is None for w in node.reads if w != "seed"):
            return
        for name in sorted(n for n in node.uses if self.models[n] is None):
            trigger = sorted(w for w in node.reads if given.get(w) is not None)
            refuse_not_loaded(self, node.declared, name, ", ".join(trigger))

    def split(self, trained: Iterable[str]) -> Split:
        """What training these models may compute once and cache, and what must run in every step.

        Raises:
            ComponentError: a name that is not a model, or one that no unit up to the loop uses.
        """
        return self.engine.split(trained)

    def split_pipeline_units(self, model_names: Iterable[str]) -> tuple[list[PipelineUnit], list[PipelineUnit]]:
        """The units that run in every step of training these models, and the others, whose results may be cached."""
        live = set(self.split(model_names).live)
        nodes = [node for node in self.engine.units if isinstance(node, DialectUnit | DialectTakeOver)]
        related = [node.declared for node in nodes if node.name in live]
        return related, [node.declared for node in nodes if node.name not in live]

    def draw(self, form: str = "text") -> str:
        """The graph as `"text"`, `"svg"` or `"html"`."""
        return self.engine.draw(form)

    # -- the loop --------------------------------------------------------------------------------------------------

    def step(
        self,
        scheduler: Any,
        latents: Tensor | None = None,
        progress_id: int | None = None,
        noise_pred: Tensor | None = None,
        input_latents: Tensor | None = None,
        inpaint_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Latents [B, ...] after step `progress_id`. Where `inpaint_mask` is 0, they go towards `input_latents`.

        Raises:
            MissingInput: there are no latents, no prediction, or no `input_latents` for a mask.
            InputError: there is no such step.
        """
        given = {"latents": latents, "progress_id": progress_id, "noise_pred": noise_pred}
        for name, value in given.items():
            if value is None:
                made = "; no unit made it" if name == "latents" else ""
                raise MissingInput(f"step needs {name!r}, which is None{made}")
        assert latents is not None and progress_id is not None and noise_pred is not None
        if not 0 <= progress_id < len(scheduler.timesteps):
            raise InputError(f"step: progress_id must be 0 to {len(scheduler.timesteps) - 1}, got {progress_id!r}")
        timestep = scheduler.timesteps[progress_id]
        if inpaint_mask is not None:
            if input_latents is None:
                raise MissingInput(
                    "inpaint_mask was given, but input_latents, which it keeps, is None; give input_image"
                )
            kept = scheduler.return_to_timestep(timestep, latents, input_latents)
            noise_pred = self.blend_with_mask(kept, noise_pred, inpaint_mask)
        if isinstance(scheduler, FlowMatchScheduler):
            return scheduler.step_at(int(progress_id), noise_pred, latents)
        moved = scheduler.step(noise_pred, timestep, latents)
        return moved if isinstance(moved, Tensor) else moved.prev_sample

    def cfg_guided_model_fn(
        self,
        model_fn: Callable[..., Tensor],
        cfg_scale: float,
        inputs_shared: Mapping[str, Any],
        inputs_posi: Mapping[str, Any],
        inputs_nega: Mapping[str, Any],
        **others: Any,
    ) -> Tensor:
        """The prediction [B, ...] with classifier-free guidance; a scale of 1 predicts the positive side alone."""
        positive = model_fn(**inputs_shared, **inputs_posi, **others)
        if cfg_scale == 1:
            return positive
        negative = model_fn(**inputs_shared, **inputs_nega, **others)
        return away_from(negative, positive, cfg_scale)  # as the engine, to the last bit


def _as_call(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` that runs as a call of its own: checked first, with its own steps and models. One that a subclass
    calls with `super()` is part of that one's call."""

    @functools.wraps(fn)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        scope = current_scope()
        if type(self).__call__ is not call and scope is not None and scope.pipe is self:
            return fn(self, *args, **kwargs)
        _refuse_unknown(type(self), kwargs)
        self.check()
        with call_scope(self):
            return fn(self, *args, **kwargs)

    return call


def _refuse_unknown(cls: type, given: Iterable[str]) -> None:
    """Raise `UnknownInput` for a keyword that the `__call__` of a pipeline does not take."""
    call = inspect.unwrap(cls.__call__)
    known = call_parameters(cls)
    for name in () if takes_any_keyword(call) else given:
        if name not in known:
            raise UnknownInput(f"{cls.__name__} takes no {name!r}{did_you_mean(name, known)}")


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two descriptions hold the same objects."""
    return all(
        len(a) == len(b) and all(x is y or (isinstance(x, str) and x == y) for x, y in zip(a, b, strict=True))
        if isinstance(a, tuple)
        else a is b
        for a, b in zip(one, other, strict=True)
    )
