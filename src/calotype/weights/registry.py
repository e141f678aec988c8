"""The classes that an index file may name. An index never imports anything else."""

import importlib
import logging
from typing import Any

from calotype._names import ECOSYSTEM, OF_TRANSFORMERS, PUBLIC
from calotype.errors import ComponentError, RepositoryError, did_you_mean
from calotype.weights.aliases import ALIASES, HOMES, SAME

logger = logging.getLogger(__name__)

LIBRARIES = ("calotype", "diffusers", "transformers")
_OWN = {"diffusers": ECOSYSTEM, "transformers": OF_TRANSFORMERS}
"""What calotype has itself of each library."""


def resolve(library: str, name: str) -> type[Any]:
    """The class that an entry `[library, name]` of an index means.

    A class of `diffusers` or `transformers` that calotype has is calotype's. Others come from those two, which are
    imported only here. Names that published indexes have for classes called otherwise today are looked up in `ALIASES`
    and `HOMES`.

    Raises:
        RepositoryError: another library, a class that the library does not have, or a library that is not installed.
    """
    if (library, name) in ALIASES:
        logger.info("['%s', '%s'] is called %s today", library, name, ALIASES[library, name])
        library, name = ALIASES[library, name]
    if library == "diffusers":
        name = SAME.get(name, name)
    if (library, name) in HOMES:
        return _foreign("diffusers", name, HOMES[library, name])
    if library not in LIBRARIES:
        raise RepositoryError(
            f"[{library!r}, {name!r}]: components come from {', '.join(LIBRARIES)} only, and nothing else is imported "
            "because an index says so; load the component yourself and give it by its keyword"
        )
    if library == "calotype" or name in _OWN[library]:
        if name not in PUBLIC:
            raise RepositoryError(f"calotype has no {name!r}{did_you_mean(name, PUBLIC)}")
        if (found := _own(name)) is None:
            raise RepositoryError(
                f"['{library}', '{name}']: calotype's {name!r} is not a component that a folder holds"
            )
        return found
    return _foreign(library, name)


def theirs(library: str, name: str) -> type[Any] | None:
    """The class of that library itself where `resolve` gives calotype's own of its name; else None.

    Raises:
        RepositoryError: as `resolve`.
    """
    library, name = ALIASES.get((library, name), (library, name))
    return _foreign(library, name) if SAME.get(name, name) in _OWN.get(library, ()) else None


def named(component: object) -> tuple[str, str]:
    """The entry `(library, class name)` under which an index names `component`, so that `resolve` finds its class.

    Raises:
        ComponentError: its class is none that an index may name.
    """
    cls = type(component)
    name, root = cls.__name__, cls.__module__.partition(".")[0]
    if root == "calotype" and name in PUBLIC and _own(name) is cls:
        return next((library for library, names in _OWN.items() if name in names), "calotype"), name
    for (library, known), home in HOMES.items():
        if name == known and cls.__module__.startswith(home):
            return library, name
    if root in ("diffusers", "transformers") and getattr(importlib.import_module(root), name, None) is cls:
        return root, portable(name)
    raise ComponentError(
        f"{cls.__module__}.{cls.__qualname__} cannot be saved in a pipeline folder: an index names public classes of "
        f"{', '.join(LIBRARIES)} only, so nothing could load it again"
    )


def portable(name: str) -> str:
    """The name of a class of transformers that means the same on every machine: an image processor is called
    `CLIPImageProcessorPil` where torchvision is not installed, and is asked for as `CLIPImageProcessor`."""
    return name.removesuffix("Pil") if name.endswith("ImageProcessorPil") else name


def _own(name: str) -> type[Any] | None:
    """Calotype's class of a public name; None where it is something else, or nothing that is loaded from a folder."""
    found: Any = getattr(importlib.import_module(PUBLIC[name]), name)
    return found if isinstance(found, type) and hasattr(found, "from_pretrained") else None


def _foreign(library: str, name: str, home: str | None = None) -> type[Any]:
    try:
        module = importlib.import_module(home or library)
    except ImportError as error:
        raise RepositoryError(
            f"{library}'s {name!r} is needed, but {library} cannot be imported ({error}); `pip install {library}`, "
            "or load the component yourself and give it by its keyword"
        ) from None
    found = getattr(module, name, None)
    public = isinstance(found, type) and found.__module__.partition(".")[0] == library
    if not public or not hasattr(found, "from_pretrained"):
        raise RepositoryError(
            f"{library} {getattr(module, '__version__', '')} has no component class {name!r}"
            f"{did_you_mean(name, [known for known in dir(module) if known[0].isupper()])}"
        )
    assert isinstance(found, type)
    return found
