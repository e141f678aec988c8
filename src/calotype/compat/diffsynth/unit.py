"""`PipelineUnit`: what a unit of the dialect declares, checked when it is made."""

import inspect
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any, Never

from calotype.compat.diffsynth.scope import current_scope
from calotype.errors import GraphError, did_you_mean

SIDES = ("inputs_shared", "inputs_posi", "inputs_nega")
"""The three parts that a call's values are in."""


class PipelineUnit:
    """A step before the loop, in one of three modes: `process` gets its inputs by name from `inputs_shared` (direct),
    runs once for each side of classifier-free guidance (`seperate_cfg`), or gets all three parts (`take_over`).

    Args:
        seperate_cfg: run `process` for the positive and for the negative side.
        take_over: give `process` the three parts and take them back.
        input_params: names read from `inputs_shared`; for a take-over unit, every name that it reads.
        output_params: names that `process` returns; `{}` is a unit with nothing to do.
        input_params_posi: parameter of `process` to name in `inputs_posi`.
        input_params_nega: the same parameters to names in `inputs_nega`.
        onload_model_names: the models that `process` uses; they are on the device while it runs.

    Raises:
        GraphError: the declarations contradict each other or `process`.
    """

    def __init__(
        self,
        seperate_cfg: bool = False,
        take_over: bool = False,
        input_params: Sequence[str] | None = None,
        output_params: Sequence[str] | None = None,
        input_params_posi: Mapping[str, str] | None = None,
        input_params_nega: Mapping[str, str] | None = None,
        onload_model_names: Sequence[str] | None = None,
        **unknown: Never,
    ) -> None:
        for name in unknown:
            near = did_you_mean(name, inspect.signature(PipelineUnit).parameters)
            raise GraphError(f"{self.name}: a PipelineUnit declares nothing called {name!r}{near}")
        if type(self).process is PipelineUnit.process:
            raise GraphError(f"{self.name} does not define process, which does a unit's work")
        self.seperate_cfg, self.take_over = seperate_cfg, take_over
        self.input_params = self._names("input_params", input_params)
        self.output_params = self._names("output_params", output_params)
        self.input_params_posi = self._pairs("input_params_posi", input_params_posi)
        self.input_params_nega = self._pairs("input_params_nega", input_params_nega)
        self.onload_model_names = self._names("onload_model_names", onload_model_names)
        self._refuse_mixed_modes()
        self._refuse_unlike_process()

    def __setattr__(self, name: str, value: Any) -> None:
        scope = current_scope()
        if scope is not None and any(unit is self for unit in scope.pipe.units):
            raise GraphError(
                f"{self.name} sets self.{name} during a call, which other calls would see; return it as an output"
            )
        super().__setattr__(name, value)

    @property
    def name(self) -> str:
        """What errors, plans and drawings call it: its class."""
        return type(self).__name__

    def process(self, pipe: Any, **inputs: Any) -> Any:
        """The unit's work. A subclass names the inputs that it takes."""
        raise AssertionError("a unit without a process is refused when it is made")

    def sources(self, negative: bool = False) -> dict[str, tuple[str, str]]:
        """Where each parameter of `process` is read: the part, and the name in it."""
        pairs = self.input_params_nega if negative else self.input_params_posi
        side = "inputs_nega" if negative else "inputs_posi"
        shared = {name: ("inputs_shared", name) for name in self.input_params}
        return shared | {parameter: (side, name) for parameter, name in pairs.items()}

    def has_default(self, parameter: str) -> bool:
        """Whether `process` can do without a parameter."""
        found = inspect.signature(self.process).parameters.get(parameter)
        return found is None or found.default is not found.empty

    # -- checks ----------------------------------------------------------------------------------------------------

    def _names(self, what: str, names: Any) -> tuple[str, ...]:
        if names is None:
            return ()
        if isinstance(names, str):
            raise GraphError(f"{self.name}: {what} is a tuple of names, got the text {names!r}; write ({names!r},)")
        if not isinstance(names, list | tuple):
            raise GraphError(f"{self.name}: {what} is a tuple of names, got {names!r}")
        listed = tuple(names)
        for name in listed:
            self._refuse_no_name(what, name)
            if listed.count(name) > 1:
                raise GraphError(f"{self.name}: {what} has {name!r} twice; leave one out")
        return listed

    def _pairs(self, what: str, pairs: Any) -> dict[str, str]:
        if pairs is None:
            return {}
        if not isinstance(pairs, Mapping):
            raise GraphError(
                f"{self.name}: {what} is a mapping from parameters of process to names, got {pairs!r}; "
                'write {"prompt": "negative_prompt"}'
            )
        for both in pairs.items():
            for name in both:
                self._refuse_no_name(what, name)
        return dict(pairs)

    def _refuse_no_name(self, what: str, name: Any) -> None:
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise GraphError(f"{self.name}: {what} holds {name!r}, which is not a name")

    def _refuse_mixed_modes(self) -> None:
        if self.seperate_cfg and self.take_over:
            raise GraphError(f"{self.name} is both seperate_cfg and take_over; a unit has one mode")
        sides = self.input_params_posi or self.input_params_nega
        if sides and not (self.seperate_cfg or self.take_over):
            raise GraphError(
                f"{self.name} declares inputs of the two sides, but reads inputs_shared alone; give seperate_cfg=True"
            )
        if self.seperate_cfg and not sides:
            raise GraphError(
                f"{self.name} is seperate_cfg, but both sides would be the same; declare input_params_posi and "
                "input_params_nega, or leave seperate_cfg out"
            )
        if self.seperate_cfg and set(self.input_params_posi) != set(self.input_params_nega):
            one = sorted(set(self.input_params_posi) ^ set(self.input_params_nega))
            raise GraphError(
                f"{self.name}: process takes the same parameters on both sides, but {', '.join(map(repr, one))} is in "
                "only one of input_params_posi and input_params_nega"
            )
        both = set(self.input_params) & set(self.input_params_posi)
        if both and not self.take_over:
            raise GraphError(
                f"{self.name}: {', '.join(sorted(both))} is both shared and of one side; leave it out of input_params"
            )

    def _refuse_unlike_process(self) -> None:
        found = list(inspect.signature(self.process).parameters.values())
        given = SIDES if self.take_over else tuple(dict.fromkeys((*self.input_params_posi, *self.input_params)))
        if not found or found[0].name in given:
            raise GraphError(f"{self.name}: what process takes first is the pipeline; write process(self, pipe, ...)")
        named = [p.name for p in found[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        lacking = [] if any(p.kind is p.VAR_KEYWORD for p in found) else [name for name in given if name not in named]
        others = [name for name in named if name not in given]
        if self.take_over and (lacking or others):
            got = ", ".join(named) or "nothing"
            raise GraphError(f"{self.name}: process of a take-over unit takes {', '.join(SIDES)}, got {got}")
        for name in lacking:
            raise GraphError(
                f"{self.name} declares the input {name!r}, which process does not take{did_you_mean(name, named)}; "
                f"add the parameter {name!r} to process, or leave it out of the declaration"
            )
        for name in others:
            raise GraphError(
                f"{self.name}: process takes {name!r}, which no declaration names{did_you_mean(name, given)}; add it "
                "to input_params"
            )
