"""What a reviewer would check, one finding each."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from calotype.errors import CalotypeError, InputError, RepositoryError
from calotype.graph.inputs import RESERVED, fields_of
from calotype.pipelines.base import DiffusionPipeline
from calotype.pipelines.loading.custom import is_guest, pack_in, pipeline_in
from calotype.pipelines.packs import UnitPack
from calotype.sharing.offline import offline
from calotype.sharing.trial import try_out
from calotype.weights.code.imports import absolute_imports, defines_pack, defines_pipeline, parsed
from calotype.weights.code.locate import locate
from calotype.weights.code.namespace import check_requirements, run_code
from calotype.weights.code.source import Code

Made = type[DiffusionPipeline] | UnitPack


@dataclass(frozen=True)
class Finding:
    """One check: what it is called, whether it passed, and what was found."""

    check: str
    passed: bool
    found: str


@dataclass
class Review:
    """All findings on one file, and what came of it: the class or pack, and the pipeline that was tried."""

    code: Code
    findings: list[Finding] = field(default_factory=list)
    made: Made | None = None
    tried: DiffusionPipeline | None = None

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(finding.passed for finding in self.findings)

    def note(self, check: str, look: Callable[[], str]) -> bool:
        """Record one check: it passed unless `look` raises an error that says why not."""
        try:
            self.findings.append(Finding(check, True, look()))
        except Exception as error:
            said = str(error) if isinstance(error, CalotypeError) else f"{type(error).__name__}: {error}"
            self.findings.append(Finding(check, False, said))
        return self.findings[-1].passed


def review(path: Path, *, weights: str | None = None, call: Mapping[str, Any] | None = None) -> Review:
    """Check a file or folder as somebody would who is asked to run it. It is run here: it is the caller's own.

    Args:
        weights: what to try it over; by default small components of the types that it declares.
        call: inputs to try it with.

    Raises:
        RepositoryError: there is no such file, or it is not Python.
    """
    found = Review(locate(path))
    found.note("packages", lambda: _packages(found.code))
    if not found.note("import", lambda: _imported(found)):
        return found
    assert found.made is not None
    made = found.made
    found.note("documented", lambda: _documented(found.code, made))

    def tried() -> str:
        found.tried = try_out(made, weights, call or {})
        return f"over {weights or 'small components'}"

    found.note("runs", tried)
    return found


def _imported(found: Review) -> str:
    """Run the file without a network, and take the one thing that it makes."""
    with offline() as attempts:
        try:
            module = run_code(found.code)
        except RepositoryError:
            if not attempts:
                raise
    if attempts:
        raise RepositoryError(
            f"it reaches for the network when it is imported: {attempts[0]}; do that when it is called"
        )
    tree = parsed(found.code.where, found.code.files[found.code.main])
    if defines_pack(tree) and not defines_pipeline(tree):
        found.made = pack_in(found.code, module)
        return f"one pack of units: {', '.join(unit.name for unit in found.made.units or found.made.for_loop)}"
    found.made = pipeline_in(found.code, module)
    if is_guest(found.made):
        raise InputError("it is a pipeline of diffusers, which is shared with diffusers' own tools")
    return f"one pipeline: {found.made.__name__}, and no network"


def _packages(code: Code) -> str:
    """Everything that is imported is declared, and everything that is declared is installed."""
    check_requirements(code)
    declared = {canonicalize_name(Requirement(item).name) for item in code.requirements}
    known = _installed_packages()
    lost: dict[str, str] = {}
    for path, source in code.files.items():
        for name in absolute_imports(parsed(path, source)) - sys.stdlib_module_names - {"calotype"}:
            packages = {canonicalize_name(package) for package in known.get(name, [name])}
            if not packages & (declared | _own_packages()):
                lost[name] = min(packages)
    if lost:
        listed = ", ".join(f'"{package}"' for package in sorted(lost.values()))
        raise InputError(
            f"it imports {', '.join(sorted(lost))}, which calotype does not bring; declare it at the top of the file:\n"
            f"# /// script\n# dependencies = [{listed}]\n# ///"
        )
    return ", ".join(code.requirements) or "none besides calotype's own"


@cache
def _installed_packages() -> Mapping[str, list[str]]:
    """The packages that bring each importable name; reading what is installed takes a third of a second."""
    return packages_distributions()


@cache
def _own_packages() -> frozenset[str]:
    """The packages that come with calotype."""
    wanted = (Requirement(item) for item in requires("calotype") or ())
    return frozenset(canonicalize_name(item.name) for item in wanted if item.marker is None)


def _documented(code: Code, made: Made) -> str:
    """The file, the class and every input say what they are."""
    lacking = list(_undocumented(code, made))
    if lacking:
        raise InputError(f"say what {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'}")
    return "the file, what it defines and every input"


def _undocumented(code: Code, made: Made) -> Iterator[str]:
    import ast

    if not ast.get_docstring(parsed(code.where, code.files[code.main])):
        yield "the file (a docstring at its top)"
    if isinstance(made, UnitPack):
        yield from (f"the unit {unit.name} (its docstring)" for unit in made.units if not unit.doc)
        inputs = made.Inputs
    else:
        if not made.__dict__.get("__doc__"):
            yield f"the class {made.__name__} (its docstring)"
        inputs = made.Inputs if made.units else None
        if not made.units:
            yield from _undocumented_call(made)
    for name, info in fields_of(inputs).items() if inputs is not None else ():
        if name not in RESERVED and not info.doc:
            yield f"the input {name} (Field(description=...))"


def _undocumented_call(cls: type[DiffusionPipeline]) -> Iterator[str]:
    """What a free-form `__call__` takes and its docstring does not mention."""
    doc = inspect.getdoc(cls.__call__) or ""
    if not doc:
        yield f"{cls.__name__}.__call__ (its docstring)"
    parameters = list(inspect.signature(cls.__call__).parameters)[1:]
    yield from (f"the argument {name} (in the docstring of __call__)" for name in parameters if doc and name not in doc)
