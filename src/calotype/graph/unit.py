"""Units: plain functions whose signature is their contract."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from keyword import iskeyword
from types import MappingProxyType
from typing import Any, Generic, Optional, ParamSpec, TypeVar, get_type_hints, overload

from calotype.errors import GraphError, did_you_mean
from calotype.graph.branches import Branch
from calotype.graph.hints import OnlySettings, accepts_none, bare, branches_of, fits, metadata_of, spell
from calotype.graph.node import BY_BRANCH, Active, Node

P = ParamSpec("P")
R = TypeVar("R")


def hints_of(fn: Any, owner: str) -> dict[str, Any]:
    """The resolved annotations of a function or class. Raises `GraphError` where a name in them is not importable."""
    try:
        return get_type_hints(fn, include_extras=True)
    except (NameError, AttributeError) as error:
        raise GraphError(f"{owner}: {unresolved(fn, error)}") from None


def unresolved(fn: Any, error: NameError | AttributeError) -> str:
    """What is wrong with an annotation of a function or class that could not be resolved."""
    if isinstance(error, NameError):
        return (
            f"the annotation {error.name!r} cannot be found at run time; import it outside of `if TYPE_CHECKING`, or "
            "define it at module level where it is defined inside a function"
        )
    sources = [vars(c).get("__annotations__", {}) for c in fn.__mro__] if isinstance(fn, type) else [fn.__annotations__]
    texts = [(n, t) for hints in sources for n, t in hints.items() if isinstance(t, str)]
    found = next((f"the annotation `{n}: {t}`" for n, t in texts if str(error.name) in t), "an annotation")
    return f"{found} cannot be resolved: {error}"


class Unit(Node, Generic[P, R]):
    """A function in the graph: parameters before `*` are wires, those after it components, and the function's name,
    or the fields of the `NamedTuple` it returns, are the wires it writes. Calling it calls the function."""

    def __init__(
        self,
        fn: Callable[P, R],
        wires: Mapping[str, str] | None = None,
        *,
        impure: bool = False,
        random: bool = False,
        together: Callable[..., R] | None = None,
        name: str | None = None,
    ) -> None:
        _refuse_no_function(fn)
        self.fn, self.impure, self.random, self.together = fn, impure, random, together
        self.function_name = fn.__name__
        self.doc = (inspect.getdoc(fn) or "").partition("\n")[0]
        self._wires = dict(wires or {})
        hints = hints_of(fn, self.function_name)
        parameters = inspect.signature(fn).parameters.values()
        self._refuse_unreadable(parameters, hints)
        self._refuse_other_parameters()
        self.parameters = {p.name: hints[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY}
        self.components = {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.branch_parameter = next((n for n, h in self.parameters.items() if bare(h) is Branch), None)
        made = hints["return"]
        fields = getattr(bare(made), "_fields", None)
        self._fields: tuple[str, ...] | None = fields
        self._made_by = getattr(bare(made), "__name__", "")
        self.returns: dict[str, Any] = self._field_hints(made) if fields else {self.function_name: made}
        self._refuse_wrong_renames()
        self._own_name = name
        refines = self.wire(self.function_name) in map(self.wire, self.parameters)
        self.name = name or (self.function_name if refines else self.wire(self.function_name))
        read = {n: h for n, h in self.parameters.items() if n != self.branch_parameter}
        self.reads = MappingProxyType(self._by_wire(read))
        self.uses = MappingProxyType(self._by_wire(self.components))
        run = {n for n, h in self.components.items() if not any(isinstance(m, OnlySettings) for m in metadata_of(h))}
        self.idle = frozenset(self.uses) - frozenset(map(self.wire, run))
        self.writes = MappingProxyType({self.wire(n): h for n, h in self.returns.items()})
        self.needs = {self.wire(n): n for n, h in self.parameters.items()
                      if n != self.branch_parameter and not accepts_none(h)}  # fmt: skip
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<unit {self.name}: {', '.join(self.reads)} -> {', '.join(self.writes)}>"

    def renamed(self, **wires: str) -> "Unit[P, R]":
        """The same function on other wires and components: `control.renamed(control_image="depth", vae="depth_vae")`.

        Keys are parameter, component or result names of the function. The unit is named after what it makes; one that
        refines a value (`sharpened.renamed(sharpened="image")`) keeps the function's name.

        Raises:
            GraphError: the function has no such parameter or result, two of its results would be one wire, two
                parameters of one wire have types that do not fit, or the new name is not one that Python could use.
        """
        return self._again({**self._wires, **wires}, self._own_name)

    def named(self, name: str) -> "Unit[P, R]":
        """The same unit under another name in errors, plans and drawings; its wires stay."""
        return self._again(self._wires, name)

    def _again(self, wires: Mapping[str, str], name: str | None) -> "Unit[P, R]":
        return Unit(self.fn, wires, impure=self.impure, random=self.random, together=self.together, name=name)

    def wire(self, name: str) -> str:
        """The wire that a parameter or a result of the function is connected to, or the component that it is."""
        return self._wires.get(name, name)

    def parts(self, components: Mapping[str, Any]) -> dict[str, Any]:
        """What the function takes as components, by parameter, from components by name."""
        return {name: components[self.wire(name)] for name in self.components}

    def active(self, absent: frozenset[str]) -> Active | None:
        if not absent.isdisjoint(self.needs):
            return None
        return Active(frozenset(self.reads), frozenset(self.uses))

    def blockers(self, absent: frozenset[str]) -> tuple[str, ...]:
        return tuple(w for w in self.needs if w in absent)

    def lift(self, lifts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        own = self.run_lift(lifts)
        return {w: own if branches_of(h) is None else BY_BRANCH for w, h in self.writes.items()}

    def run_lift(self, lifts: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """What decides how often the function runs: the lifts of what it reads one branch at a time."""
        if self.branch_parameter:
            return BY_BRANCH
        return frozenset().union(*(lifts.get(w, frozenset()) for w in self.one_by_one))

    @property
    def one_by_one(self) -> tuple[str, ...]:
        """The wires that it reads one branch at a time."""
        return tuple(self.wire(n) for n, h in self.parameters.items() if branches_of(h) is None)

    def results(self, made: Any) -> dict[str, Any]:
        """What one call returned, by wire. Raises `GraphError` for a `None` that the annotation excludes."""
        if self._fields is not None and made is not None and getattr(made, "_fields", None) != self._fields:
            raise GraphError(
                f"{self.name} returned {type(made).__name__}, wanted a NamedTuple of {', '.join(self._fields)}; write "
                f"return {self._made_by}({', '.join(f'{name}=...' for name in self._fields)})"
            )
        if self._fields is None:
            named = {self.function_name: made}
        elif made is None:
            named = dict.fromkeys(self._fields)
        else:
            named = made._asdict()
        for name, value in named.items():
            if value is None and not accepts_none(self.returns[name]):
                raise GraphError(
                    f"{self.name} returned None for {self.wire(name)!r}, wanted {spell(self.returns[name])}; "
                    f"annotate it `{spell(self.returns[name])} | None` if it may be left out"
                )
        return {self.wire(name): value for name, value in named.items()}

    def result(self, made: Any) -> Any:
        """What one call returned, of a unit with one output. Raises `GraphError` as `results` does."""
        if self._fields is None and made is not None:
            return made
        (value,) = self.results(made).values()
        return value

    def _refuse_unreadable(self, parameters: Any, hints: Mapping[str, Any]) -> None:
        for p in parameters:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise GraphError(f"{self.function_name}: {p} has no names to wire; name every value it takes")
            if p.kind is p.POSITIONAL_ONLY:
                raise GraphError(f"{self.function_name}: values are passed by name; leave out the `/` after {p.name!r}")
            if p.name not in hints:
                raise GraphError(
                    f"{self.function_name}: parameter {p.name!r} needs a type; write `{p.name}: Tensor`, or what it is"
                )
            if p.default is not p.empty:
                raise GraphError(
                    f"{self.function_name}: parameter {p.name!r} has a default, which would hide a misspelled wire; "
                    "a user's default belongs in Inputs, an optional value is typed `... | None`"
                )
        if "return" not in hints or hints["return"] is type(None):
            raise GraphError(
                f"{self.function_name}: annotate what it returns; write `def {self.function_name}(...) -> Tensor`, or "
                "what it is"
            )

    def _refuse_other_parameters(self) -> None:
        if self.together is None:
            return
        own, others = (list(inspect.signature(fn).parameters) for fn in (self.fn, self.together))
        if own != others:
            raise GraphError(
                f"{self.function_name}: together= must be a function of the same parameters, {', '.join(own)}, got "
                f"{', '.join(others)}"
            )

    def _field_hints(self, made: Any) -> dict[str, Any]:
        """The type of each field; all may be None where the function may return None instead."""
        hints = hints_of(bare(made), f"{self.function_name} returns {bare(made).__name__}")
        untyped = [name for name in bare(made)._fields if name not in hints]
        if untyped:
            raise GraphError(f"{self.function_name}: the field {untyped[0]!r} of {bare(made).__name__} needs a type")
        return {n: Optional[hints[n]] if accepts_none(made) else hints[n] for n in bare(made)._fields}  # noqa: UP045

    def _refuse_wrong_renames(self) -> None:
        known = {*self.parameters, *self.components, *self.returns, self.function_name}
        for name, wire in self._wires.items():
            if name not in known:
                raise GraphError(
                    f"{self.function_name}.renamed: it has no parameter or result {name!r}{did_you_mean(name, known)}"
                )
            if not isinstance(wire, str) or not wire.isidentifier() or iskeyword(wire):
                raise GraphError(
                    f"{self.function_name}.renamed: {name} is renamed to {wire!r}, which is not a name; write "
                    f'{name}="other_{name}"'
                )
        written = [self.wire(name) for name in self.returns]
        for wire in written:
            if written.count(wire) > 1:
                raise GraphError(f"{self.function_name}.renamed: two of its results would be {wire!r}; rename one")

    def _by_wire(self, hints: Mapping[str, Any]) -> dict[str, Any]:
        """The types of parameters by wire or component: the narrower of two that share one."""
        found: dict[str, Any] = {}
        for name, hint in hints.items():
            wire = self.wire(name)
            there = found.setdefault(wire, hint)
            same_form = (branches_of(there) is None) == (branches_of(hint) is None)
            if not same_form or not (fits(hint, there) or fits(there, hint)):
                raise GraphError(
                    f"{self.function_name}.renamed: {name!r} reads {wire!r} as {spell(hint)}, but another parameter "
                    f"reads it as {spell(there)}; no value is both, so give one another name"
                )
            if not fits(there, hint) or (fits(hint, there) and not accepts_none(hint)):
                found[wire] = hint
        return found


def _refuse_no_function(fn: Any) -> None:
    """Raise `GraphError` for what is no plain function."""
    name = getattr(fn, "__name__", None)
    if isinstance(fn, Unit):
        raise GraphError(f"{fn.name} is a unit already; leave out the second @unit")
    if isinstance(fn, partial):
        raise GraphError(
            f"unit takes a function with a name and a signature, got {fn!r}; write a function that calls it"
        )
    if not (inspect.isfunction(fn) or inspect.isbuiltin(fn)):
        raise GraphError(f"unit takes a function, got {fn!r}; write @unit above a `def`")
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise GraphError(f"{name}: a unit is a plain function; write `def {name}`, without `async`")
    if inspect.isgeneratorfunction(fn):
        raise GraphError(f"{name}: a unit returns its value once; write `return`, not `yield`")


@overload
def unit(fn: Callable[P, R], /) -> Unit[P, R]: ...


@overload
def unit(
    *, impure: bool = False, random: bool = False, together: Callable[..., Any] | None = None
) -> Callable[[Callable[P, R]], Unit[P, R]]: ...


def unit(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    impure: bool = False,
    random: bool = False,
    together: Callable[..., Any] | None = None,
) -> Any:
    """Make a unit of a function, as `@unit` or `@unit(impure=True)`.

    Args:
        impure: the function may give another result for the same values; it is never pruned, memoised or cached.
            Previews run it only where an output needs it.
        random: it draws randomness for each sample (crop, caption dropout); training does not cache it.
        together: a function of the same parameters that does the same for several rows at once, for training: a
            sequence of each value that the function reads, in the order of the rows, to results [b, ...] or to a list
            of what the function returns of each. Rows of a cache differ in texts, pictures and what is in arrays alone.

    Raises:
        GraphError: what is given is not a plain function; a parameter has no type, a default, or is
            `*args`/`**kwargs`; the return type is missing; or `together` has other parameters.
    """
    if fn is None:
        return lambda f: Unit(f, impure=impure, random=random, together=together)
    return Unit(fn, impure=impure, random=random, together=together)
