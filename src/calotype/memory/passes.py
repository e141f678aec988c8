"""Which groups of layers a call passes through, and how often: seen while it is rehearsed on shapes alone."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from torch import nn

from calotype.memory.groups import Group
from calotype.memory.hooks import called_by, unhook
from calotype.memory.imagined import is_imagining

Key: TypeAlias = tuple[str, str]
"""The name of a component and of a group in it, `""` for what is between its groups."""

_counting: ContextVar["Passes | None"] = ContextVar("counting", default=None)


class Passes:
    """Counts how often groups are entered anew, as `Window` would have them come if all of them took turns.

    Args:
        groups: of each component, by name.

    Attributes:
        counted: since it was last emptied.
        last: the group that was passed through last.
    """

    def __init__(self, groups: Mapping[str, Sequence[Group]]) -> None:
        self._groups = groups
        self._inside: Key | None = None
        self.last: Key | None = None
        self.counted: Counter[Key] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what this thread passes through while the context lasts, where it only imagines."""
        handles = []
        for name, groups in self._groups.items():
            for group in groups:
                if (module := group.module()) is None or not group.name:
                    continue
                key = name, group.name
                handles += [m.register_forward_pre_hook(self._entering(key)) for m in called_by(group, module)]
                handles.append(module.register_forward_hook(self._leaving(key), always_call=True))
        before = _counting.set(self)
        try:
            yield
        finally:
            _counting.reset(before)
            unhook(handles)

    def taken(self) -> Counter[Key]:
        """What was counted, and begin anew."""
        found, self.counted = self.counted, Counter()
        return found

    def _entering(self, key: Key) -> Callable[[nn.Module, Any], None]:
        def enter(called: nn.Module, args: Any) -> None:
            if self._is_mine() and self._inside != key:
                if self.last != key:
                    self.counted[key] += 1
                self._inside = self.last = key

        return enter

    def _leaving(self, key: Key) -> Callable[[nn.Module, Any, Any], None]:
        def leave(called: nn.Module, args: Any, out: Any) -> None:
            if self._is_mine() and self._inside == key:
                self._inside = None

        return leave

    def _is_mine(self) -> bool:
        return _counting.get() is self and is_imagining.get()
