"""What a cached value is known by: the code that made it, the weights it used, and what went in.

A key follows from these and from nothing else, so that a changed prompt, picture, unit or weight has other keys, and
everything it does not affect has the same.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from calotype import __version__
from calotype.errors import ConfigError, InputError
from calotype.graph.hints import accepts_none
from calotype.graph.memo import fingerprint, knowable
from calotype.graph.node import Node
from calotype.graph.unit import Unit
from calotype.training.unopened import Unopened
from calotype.training.wires import TrainedWires, plan_item, read_unopened

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


CONSTANTS = (str, int, float, bytes, tuple, Tensor)
"""Types of values that a module's functions refer to and that do not change while it runs."""

UNKNOWN = "unknown"
"""In place of the key of a value that cannot be told from another."""


def digest(*parts: object) -> str:
    """A digest of the texts of these parts."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


class FileDigests:
    """Digests of files' contents; a file that keeps its size and its time of change is read once only.

    Args:
        known: what was found before: size, time of change in nanoseconds and digest by path.
    """

    def __init__(self, known: Mapping[str, tuple[int, int, str]] | None = None) -> None:
        self.known: dict[str, tuple[int, int, str]] = dict(known or {})

    def of(self, path: Path | Unopened) -> str:
        """The digest of a file, or of a picture in one. Raises `InputError` where there is none."""
        file = path.file if isinstance(path, Unopened) else path
        try:
            if file is None:
                return _content(path)
            facts = file.stat()
            found = self.known.get(str(path))
            if found is None or found[:2] != (facts.st_size, facts.st_mtime_ns):
                found = (facts.st_size, facts.st_mtime_ns, _content(path))
                self.known[str(path)] = found
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        return found[2]


def _content(path: Path | Unopened) -> str:
    if isinstance(path, Unopened):
        return hashlib.sha256(path.read()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Keys:
    """Finds the keys of a row's stored wires.

    Args:
        pipe: whose graph and inputs; its components may be left out.
        wires: what is stored.
        components: the fingerprint of each component that a cached unit uses.
        files: digests of picture files.
    """

    def __init__(
        self, pipe: "DiffusionPipeline", wires: TrainedWires, components: Mapping[str, str], files: FileDigests
    ) -> None:
        self._pipe, self._wires, self._components, self._files = pipe, wires, components, files
        self._codes = {node.name: digest(node_code(node), __version__) for node in wires.cached}
        self._cached = set(self._codes)
        self._known: dict[Any, dict[str, str | None]] = {}

    def of(self, inputs: Mapping[str, Any]) -> dict[str, str | None]:
        """The key of each stored wire of a row; None where the wire is None for this row."""
        plain = all(isinstance(v, str | int | float | Path | Unopened | None) for v in inputs.values())
        row = tuple(sorted((name, repr(v)) for name, v in inputs.items())) if plain else None
        if row is None:
            return self._find(inputs)
        if row not in self._known:
            self._known[row] = self._find(inputs)
        return self._known[row]

    def _find(self, inputs: Mapping[str, Any]) -> dict[str, str | None]:
        graph = self._pipe._graph()
        call, files = read_unopened(self._pipe, inputs)
        plan = plan_item(graph, call, self._wires.stored, {})
        keys: dict[str, str] = {}
        for name, value in call.values.items():
            keys[name] = self._files.of(files[name]) if name in files else _key_of(value)
        found: dict[str, str | None] = dict.fromkeys(self._wires.stored)
        for planned in plan.nodes:
            node = planned.node
            if node.name not in self._cached:
                continue
            own = self._node_key(node, keys)
            for wire in node.writes:
                keys[wire] = digest(own, _result_name(node, wire))
                if wire in found:
                    found[wire] = keys[wire]
        return found

    def _node_key(self, node: Node, keys: Mapping[str, str]) -> str:
        reads = [(name, keys.get(wire, "None")) for name, wire in _parameters(node)]
        if unknown := [name for name, key in reads if key == UNKNOWN]:
            raise InputError(
                f"{node.name} reads {', '.join(unknown)}, which cannot be told from other values, so what is "
                "made of it cannot be cached; mark the unit @unit(random=True), so that it runs in every step"
            )
        used = [(name, self._fingerprint(node, name)) for name in sorted(node.uses)]
        return digest(self._codes[node.name], reads, used)

    def _fingerprint(self, node: Node, name: str) -> str:
        if name not in self._components and accepts_none(node.uses[name]):
            return "None"
        if name not in self._components:
            raise ConfigError(
                f"{node.name} uses {name!r}, whose fingerprint is not known; load it, or prepare the cache"
            )
        return self._components[name]


def _key_of(value: Any) -> str:
    found = fingerprint(value)
    return digest(repr(found)) if knowable(found) else UNKNOWN


def _parameters(node: Node) -> list[tuple[str, str]]:
    """The names by which a node reads wires, and the wires."""
    if isinstance(node, Unit):
        return [(name, node.wire(name)) for name in node.parameters if name != node.branch_parameter]
    return [(wire, wire) for wire in node.reads]


def _result_name(node: Node, wire: str) -> str:
    if isinstance(node, Unit):
        return next(name for name in node.returns if node.wire(name) == wire)
    return wire


def node_code(node: Node) -> str:
    """A digest of a node's code: of its functions, for one row and for several, and of what they refer to: functions
    and classes of its own package and constants, also those that it was defined among."""
    met: dict[int, str] = {}
    for fn in (getattr(node, "fn", None), getattr(node, "together", None)):
        if isinstance(fn, FunctionType):
            _codes(fn, met)
    return digest(*sorted(met.values())) if met else digest(type(node).__qualname__)


def _codes(fn: FunctionType, met: dict[int, str]) -> dict[int, str]:
    """The code of a function with its constants, and of the functions that it names, by identity."""
    fn = inspect.unwrap(fn)
    named = _named(fn)
    constants = {
        n: repr(fingerprint(v)) for n, v in named.items() if isinstance(v, CONSTANTS) and knowable(fingerprint(v))
    }
    met[id(fn)] = digest(_code(fn), sorted(constants.items()))
    package = fn.__module__.partition(".")[0]
    for value in named.values():
        for other in _functions(value):
            if (other.__module__ or "").partition(".")[0] == package and id(other) not in met:
                _codes(other, met)
    return met


def _named(fn: FunctionType) -> dict[str, Any]:
    """What a function refers to by name: in its module, in modules that it names, and where it was defined."""
    names = _names(fn.__code__)
    found = {name: fn.__globals__[name] for name in names if name in fn.__globals__}
    for module in [value for value in found.values() if isinstance(value, ModuleType)]:
        found |= {f"{module.__name__}.{name}": vars(module)[name] for name in names if name in vars(module)}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    return found


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions that a value is, or has: of a unit its own, of a class its methods."""
    value = getattr(value, "fn", value)
    for one in vars(value).values() if isinstance(value, type) else (value,):
        one = inspect.unwrap(one) if isinstance(one, FunctionType) else one
        if isinstance(one, FunctionType):
            yield one


def _names(code: CodeType) -> set[str]:
    """The global names in some code, and in what is defined within it."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*(_names(one) for one in inner))


def _code(fn: Callable[..., Any]) -> str:
    """The code of a function without comments, layout and documentation."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    except (OSError, TypeError, SyntaxError):
        code: Any = getattr(fn, "__code__", None)
        return repr(_compiled(code)) if code else repr(fn)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and body and _is_text(body[0]):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """What is known of code without its source; code within it would be shown with its address."""
    constants = [_compiled(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return code.co_code, constants, code.co_names


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
