"""Packages whose names load on first use, so that importing one module of a package does not import its siblings."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: `where` says which of its modules has each public name.

    A type checker reads the imports that stand beside it under `TYPE_CHECKING`.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in where:
            from calotype.errors import did_you_mean

            raise AttributeError(f"module {package!r} has no attribute {name!r}{did_you_mean(name, where)}")
        return getattr(importlib.import_module(f"{package}.{where[name]}"), name)

    return __getattr__
