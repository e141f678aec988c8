"""Packages whose names load on first use, so that importing one module of a package does not import its siblings."""

import gc
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def import_quickly(module: str) -> ModuleType:
    """`importlib.import_module` without Python's cycle collector.

    Importing makes objects that stay, PyTorch's 170,000 among them. The collector looks through all of them again and
    again, a sixth of the whole time, and finds nothing. One that the program has switched off stays off.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        if paused:
            if not gc.get_freeze_count():  # what a program has frozen stays frozen
                gc.freeze()
                gc.unfreeze()  # together: all there is counts as old, and is not looked through at once
            gc.enable()


def lazy_names(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: `where` says which of its modules has each public name.

    A type checker reads the imports that stand beside it under `TYPE_CHECKING`.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in where:
            from calotype.errors import did_you_mean

            raise AttributeError(f"module {package!r} has no attribute {name!r}{did_you_mean(name, where)}")
        return getattr(import_quickly(f"{package}.{where[name]}"), name)

    return __getattr__
