"""`model_fn` as a pipeline hands it out: with the models of the loop on their device, and clear errors."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from calotype.compat.diffsynth.calls import named_parameters, takes_any_keyword
from calotype.errors import ComponentNotLoaded, GraphError, did_you_mean


class ModelFn:
    """Calls a pipeline's `model_fn`, once the models in `in_iteration_models` are on their device. One that takes no
    `**kwargs` is given what it names, and nothing else.

    Raises:
        GraphError: it is given a model that is not in `in_iteration_models`.
        ComponentNotLoaded: it uses a model that was not loaded, or would ignore the input of one.
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
        refuse_ignored(pipe, values)
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


def refuse_ignored(pipe: Any, values: Mapping[str, Any]) -> None:
    """Raise `ComponentNotLoaded` for the picture, array or list of an adapter of the loop that was not loaded, which
    `model_fn` would ignore: the adapter `controlnet` has inputs whose names begin with `controlnet_`."""
    owner = type(pipe).__name__
    for model in pipe.in_iteration_models:
        if pipe.models.get(model) is not None:
            continue
        for name, value in values.items():
            if name.startswith(f"{model}_") and not _is_setting(value):
                raise ComponentNotLoaded(
                    f"{owner}.model_fn would ignore {name!r}, as this {owner} was loaded without {model!r}. Add a "
                    f"ModelConfig of its files to model_configs, set pipe.{model} = ..., or leave {name} out"
                )


def _is_setting(value: Any) -> bool:
    """Whether a value asks for nothing by itself: none, a number, a text, or an empty collection."""
    if isinstance(value, list | tuple | dict):
        return not value
    return value is None or isinstance(value, bool | int | float | str)
