"""Running code of others: the one place where it happens, and the check that it may.

Each source is a package of its own in `sys.modules`, named after the hash of its bytes, so that two sources never meet
and one that changed is another. Its modules come from those bytes alone: nothing is read again, and nothing compiled is
written. A program that was loaded before keeps what it has.
"""

import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec
from types import CodeType, ModuleType

from packaging.requirements import InvalidRequirement, Requirement

from calotype.errors import CalotypeError, RepositoryError
from calotype.weights.code.consent import Consent
from calotype.weights.code.imports import text_of
from calotype.weights.code.locate import shipped_code, shipped_names
from calotype.weights.code.source import Code

PREFIX = "calotype_code_"


def run_code(code: Code, consent: Consent | None = None) -> ModuleType:
    """The main module of `code`. It is run once in a process; the same bytes are the same module.

    Args:
        consent: what was approved, by default by this user. Code that the user typed the path of needs no approval,
            nor does code in a folder that is byte for byte code that ships with the package.

    Raises:
        UntrustedCode: it was not approved.
        RepositoryError: a package that it needs is missing, or it failed; nothing of it is then left behind.
    """
    if not code.own and not _ships(code):
        (consent or Consent()).require(code)
    check_requirements(code)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    name = PREFIX + code.digest.removeprefix("sha256:")[:32]
    while True:
        root = sys.modules.setdefault(name, _package(name, _Loader(code)))
        loader = loader_of(root)
        assert loader is not None and loader.code.digest == code.digest, "a namespace is named after its bytes"
        with loader.lock:
            if sys.modules.get(name) is root:  # or another thread ran it, it failed, and it was taken away
                return _run(name, code)


def code_of(module: str) -> Code | None:
    """The code that a module belongs to, with that module as its main file; None for an ordinary module."""
    root, _, inner = module.partition(".")
    loader = loader_of(sys.modules.get(root)) if root.startswith(PREFIX) else None
    if loader is None:
        return None
    return Code(loader.code.source, _file(loader.code, inner), loader.code.files, loader.code.revision, loader.code.own)


def check_requirements(code: Code) -> None:
    """Raise `RepositoryError` for a package that the code declares and that is missing or of another version."""
    for item in code.requirements:
        try:
            wanted = Requirement(item)
        except InvalidRequirement as error:
            raise RepositoryError(f"{code.where} declares the package {item!r}, which is not one: {error}") from None
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "not installed"
        if found == "not installed" or not wanted.specifier.contains(found, prereleases=True):
            raise RepositoryError(
                f"{code.where} needs the package {item}, which is {found}; run: pip install '{item}'"
                if found == "not installed"
                else f"{code.where} needs the package {item}, but {found} is installed; run: pip install '{item}'"
            )


def _ships(code: Code) -> bool:
    return code.revision is None and any(shipped_code(name).digest == code.digest for name in shipped_names())


def _run(name: str, code: Code) -> ModuleType:
    before = _modules_in(name)
    try:
        return import_module(f"{name}.{code.module}")
    except BaseException as error:
        for module in _modules_in(name) - before:
            del sys.modules[module]
        if not before:
            del sys.modules[name]
        if isinstance(error, CalotypeError):
            error.add_note(f"while {code.where} was run")
            raise
        if isinstance(error, ImportError):
            raise RepositoryError(_lacks(name, code, error)) from error
        if isinstance(error, Exception | SystemExit):
            raise RepositoryError(f"{code.where} failed when it was run: {type(error).__name__}: {error}") from error
        raise


def _modules_in(package: str) -> set[str]:
    return {module for module in list(sys.modules) if module.startswith(f"{package}.")}


def _lacks(name: str, code: Code, error: ImportError) -> str:
    """What an import inside the code did not find."""
    wanted = error.name or ""
    if wanted == name or wanted.startswith(f"{name}."):
        inner = wanted.removeprefix(name).lstrip(".")
        if isinstance(error, ModuleNotFoundError):
            return f"{code.where} imports .{inner}, but there is no {inner.replace('.', '/')}.py beside it"
        return f"{code.where}: {str(error).replace(f'{name}.', '').partition(' (')[0]}"
    if isinstance(error, ModuleNotFoundError) and wanted:
        package = wanted.partition(".")[0]
        if package != wanted:
            return f"{code.where} imports {wanted}, which the installed {package} does not have"
        return (
            f"{code.where} needs the package {package!r}, which is not installed; install it, for example with "
            f"`pip install {package}`, or write `from .{package} import ...` if it is a file beside this one"
        )
    return f"{code.where} cannot import what it needs: {error}"


class _Loader(InspectLoader):
    """Gives the modules of one source, from its bytes alone."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.lock = threading.RLock()

    def create_module(self, spec: ModuleSpec) -> None:
        """Ordinary modules."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's bytes. Packages without a file of their own have nothing to run."""
        compiled = self.get_code(module.__name__)
        if compiled is not None:
            exec(compiled, module.__dict__)

    def get_code(self, fullname: str) -> CodeType | None:
        """The module, compiled from the bytes that were hashed."""
        file = _file(self.code, fullname.partition(".")[2])
        if not file:
            return None
        text = text_of(file, self.code.files[file])  # as text, so that no declared encoding makes other code of it
        return compile(text, self.place(file), "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str | None:
        """The text of a module, for tracebacks and `inspect`."""
        file = _file(self.code, fullname.partition(".")[2])
        return text_of(file, self.code.files[file]) if file else None

    def is_package(self, fullname: str) -> bool:
        """Whether the module has others in it."""
        inner = fullname.partition(".")[2]
        return not inner or _file(self.code, inner).endswith("__init__.py") or _is_folder(self.code, inner)

    def place(self, file: str) -> str:
        """What tracebacks call a file: no path, so that what lies there now is not taken for what ran."""
        return f"<{self.code.source} {self.code.digest[7:19]}>/{file}"


class _Finder(MetaPathFinder):
    """Finds the modules inside the packages that `run_code` made. It answers for no others and holds nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, inner = fullname.partition(".")
        loader = loader_of(sys.modules.get(root)) if inner and root.startswith(PREFIX) else None
        if loader is None or not (_file(loader.code, inner) or _is_folder(loader.code, inner)):
            return None
        return _spec(fullname, loader)


def loader_of(module: ModuleType | None) -> _Loader | None:
    """The loader of a namespace's package; None for any other module."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return loader if isinstance(loader, _Loader) else None


def _package(name: str, loader: _Loader) -> ModuleType:
    return module_from_spec(_spec(name, loader))


def _spec(name: str, loader: _Loader) -> ModuleSpec:
    file = _file(loader.code, name.partition(".")[2])
    spec = ModuleSpec(name, loader, origin=loader.place(file or "."), is_package=loader.is_package(name))
    spec.has_location = bool(file)  # sets __file__, which tracebacks read
    return spec


def _file(code: Code, inner: str) -> str:
    """The file of a module inside the package; `""` where it has none of its own."""
    path = inner.replace(".", "/")
    return next((file for file in (f"{path}/__init__.py", f"{path}.py") if inner and file in code.files), "")


def _is_folder(code: Code, inner: str) -> bool:
    return any(file.startswith(inner.replace(".", "/") + "/") for file in code.files)
