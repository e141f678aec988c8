"""What loading a pipeline found, for whoever wants to know afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from calotype.errors import listed

_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """Where a pipeline came from, and what its repository lists that it did not take.

    Attributes:
        source: the folder, or the id on the hub.
        revision: the commit that every file came from; None for a folder.
        unused: the components that the index lists and the class does not take, by name, as the index says them. They
            were neither fetched nor read.
        renamed: the components whose class the index calls by an older name, by name: what it says, what it was taken
            for.
        left_out: the keys of a single file that no network takes, by kind.
    """

    source: str
    revision: str | None = None
    unused: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.source if self.revision is None else f"{self.source} at {self.revision}"]
        lines += [f"not loaded: {name} {ref}" for name, ref in self.unused.items()]
        lines += [f"{name}: {old} is {new} today" for name, (old, new) in self.renamed.items()]
        for kind, keys in self.left_out.items():
            lines.append(f"left out: {len(keys)} of {kind}: {listed(keys, _SHOWN)}")
        return "\n".join(lines)
