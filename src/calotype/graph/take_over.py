"""Take-over units, which drive all guidance branches themselves."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from calotype.errors import GraphError, did_you_mean
from calotype.graph.hints import accepts_none, branches_of, spell
from calotype.graph.node import BY_BRANCH, Active, Node
from calotype.graph.unit import hints_of


class State:
    """What a take-over unit sees: only the wires it declared, each a plain value or, where it differs between
    guidance branches, `Branches`."""

    def __init__(self, owner: str, values: dict[str, Any], reads: Mapping[str, Any], writes: Mapping[str, Any]) -> None:
        self._owner, self._values, self._reads, self._writes = owner, values, reads, writes
        self.written: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self.written:
            return self.written[name]
        if name not in self._reads:
            raise GraphError(self._refusal("reads", name, self._reads))
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._writes:
            raise GraphError(self._refusal("writes", name, self._writes))
        self.written[name] = value

    def _refusal(self, verb: str, name: str, declared: Mapping[str, Any]) -> str:
        near = did_you_mean(name, declared)
        return f"{self._owner} {verb} {name!r} without declaring it{near}; add it to @takes_over({verb}=...)"


class TakeOver(Node):
    """A unit that drives all branches itself, on a `State` limited to the wires that it declares."""

    def __init__(self, fn: Callable[..., None], reads: Mapping[str, Any], writes: Mapping[str, Any]) -> None:
        self.fn, self.name = fn, fn.__name__
        self.doc = (inspect.getdoc(fn) or "").partition("\n")[0]
        self.reads, self.writes = MappingProxyType(dict(reads)), MappingProxyType(dict(writes))
        parameters = list(inspect.signature(fn).parameters.values())
        hints = hints_of(fn, self.name)
        if (
            not parameters
            or parameters[0].kind is parameters[0].KEYWORD_ONLY
            or hints.get(parameters[0].name) is not State
        ):
            raise GraphError(f"{self.name}: a take-over unit takes `state: State` first, then components after `*`")
        extra = [p.name for p in parameters[1:] if p.kind is not p.KEYWORD_ONLY]
        if extra:
            raise GraphError(f"{self.name}: {extra[0]!r} must come after `*`; values are read from the state")
        self.uses = MappingProxyType({p.name: hints[p.name] for p in parameters[1:]})

    def __call__(self, state: State, **components: Any) -> None:
        self.fn(state, **components)

    def __repr__(self) -> str:
        return f"<take-over unit {self.name}: {', '.join(self.reads)} -> {', '.join(self.writes)}>"

    def active(self, absent: frozenset[str]) -> Active | None:
        return None if self.blockers(absent) else Active(frozenset(self.reads), frozenset(self.uses))

    def blockers(self, absent: frozenset[str]) -> tuple[str, ...]:
        return tuple(w for w, h in self.reads.items() if w in absent and not accepts_none(h))

    def lift(self, lifts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        return {w: frozenset() if branches_of(h) is None else BY_BRANCH for w, h in self.writes.items()}

    def check(self, state: "State") -> None:
        """Raise `GraphError` unless every wire was written, and none is None that its type excludes."""
        for wire, hint in self.writes.items():
            if wire not in state.written:
                raise GraphError(f"{self.name} declares that it writes {wire!r}, but did not; set state[{wire!r}]")
            if state.written[wire] is None and not accepts_none(hint):
                raise GraphError(f"{self.name} wrote None to {wire!r}, wanted {spell(hint)}")


def takes_over(*, reads: Mapping[str, Any], writes: Mapping[str, Any]) -> Callable[[Callable[..., None]], TakeOver]:
    """Make a take-over unit: `@takes_over(reads={"prompt_embeds": Branches[Tensor]}, writes={"masks": Tensor})`.

    A wire that differs between branches is declared `Branches[T]`. All writes depend on all reads and components.

    Raises:
        GraphError: the function's first parameter is not `state: State`; later, when it touches an undeclared wire.
    """
    return lambda fn: TakeOver(fn, reads, writes)
