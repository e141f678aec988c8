"""`model_fn` as a pipeline hands it out: with the models of the loop on their device, and clear errors."""

import functools
from collections.abc import Callable
from typing import Any

from calotype.compat.diffsynth.calls import named_parameters, takes_any_keyword
from calotype.errors import ComponentNotLoaded, GraphError, did_you_mean


class ModelFn:
    """Calls a pipeline's `model_fn`, once the models in `in_iteration_models` are on their device. One that takes no
    `**kwargs` is given what it names, and nothing else.

    Raises:
        GraphError: it is given a model that is not in `in_iteration_models`.
        ComponentNotLoaded: it uses a model that was not loaded.
    """

    def __init__(self, pipe: Any, fn: Callable[..., Any]) -> None:
        self._pipe, self._fn = pipe, fn
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any, **values: Any) -> Any:
        pipe, names = self._pipe, self._pipe.in_iteration_models
        owner = type(pipe).__name__
        for name in values:
            if name in pipe.models and name not in names:
                raise GraphError(
                    f"model_fn was given the model {name!r}, which is not in {owner}.in_iteration_models"
                    f"{did_you_mean(name, names)}; add {name!r}"
                )
        pipe.hold_loop()
        takes = named_parameters(self._fn)
        if not takes_any_keyword(self._fn):
            values = {name: value for name, value in values.items() if name in takes}
        try:
            return self._fn(*args, **values)
        except (TypeError, AttributeError) as error:
            absent = [n for n in names if n in takes and pipe.models.get(n) is None and values.get(n) is None]
            if absent and "NoneType" in str(error):
                raise ComponentNotLoaded(
                    f"{owner}.model_fn needs {' or '.join(map(repr, absent))}, but this {owner} was loaded without: "
                    f"{error}. Add a ModelConfig of its files to model_configs, or set pipe.{absent[0]} = ..."
                ) from error
            raise
