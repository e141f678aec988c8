"""Every error that calotype raises on purpose.

    CalotypeError
    ├── GraphError              the units of a pipeline do not fit together (class definition)
    ├── InputError              a value that a caller gave is wrong (also a ValueError)
    │   ├── UnknownInput        a name that nothing takes
    │   ├── MissingInput        something a unit needs was left out
    │   └── UnusedInput         a value was given although nothing in this call reads it
    ├── ComponentError          a component is wrong for the pipeline
    │   └── ComponentNotLoaded  a unit that this call runs needs a component that was not loaded
    ├── ConfigError             a configuration does not describe what it should (also a ValueError)
    ├── RepositoryError         a pipeline folder or its index is wrong
    │   └── UntrustedCode       code of others that this user did not approve
    ├── TrainingError           a training run cannot go on (not a finite loss, a full disk, another run's checkpoint)
    └── WeightsError            a weight file, or its keys and shapes, are wrong

Messages say who, what was wanted, what was found and what to type next.
"""

import difflib
from collections.abc import Iterable


class CalotypeError(Exception):
    """Base of every error calotype raises on purpose."""


class GraphError(CalotypeError):
    """The units of a pipeline do not fit together. Raised when the pipeline class is defined."""


class InputError(CalotypeError, ValueError):
    """A value that a caller gave is wrong."""


class UnknownInput(InputError):
    """A name was given that nothing takes."""


class MissingInput(InputError):
    """Something that a unit needs was left out."""


class UnusedInput(InputError):
    """A value was given explicitly although nothing in this call reads it."""


class ComponentError(CalotypeError):
    """A component is wrong for the pipeline that was asked to hold it."""


class ComponentNotLoaded(ComponentError):
    """A unit that this call runs needs a component that the pipeline does not hold."""


class ConfigError(CalotypeError, ValueError):
    """A configuration does not describe what it should."""


class RepositoryError(CalotypeError):
    """A pipeline folder or its index is wrong."""


class UntrustedCode(RepositoryError):
    """Code of others that this user did not approve. The message shows what it is and how to approve it."""


class TrainingError(CalotypeError):
    """A training run cannot go on. The message says where the last good checkpoint is."""


class WeightsError(CalotypeError):
    """A weight file, or its keys and shapes, are wrong."""


def sentences(*parts: str) -> str:
    """Parts of a message, each with its full stop unless it ends in a question mark."""
    return " ".join(part if part.endswith("?") else f"{part}." for part in parts).removesuffix(".")


def listed(items: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """The first of several, and how many more there are: `"a, b, and 5 more"`."""
    items = list(items)
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([*items[:most], *more])


def quoted(names: Iterable[object], most: int = 8) -> str:
    """`listed`, of names as Python would write them: `"'a', 'b', and 5 more"`."""
    return listed(map(repr, names), most)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'prompt'?"` for the nearest known name, or `""` when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
