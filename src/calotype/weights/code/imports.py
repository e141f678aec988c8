"""What a Python file says about itself, read without running it: the files and packages that it needs, its classes."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath

from calotype.errors import RepositoryError

_HEADER = re.compile(r"(?m)^# /// script\s*$\n((?:^#(?: .*)?$\n)*?)^# ///\s*$")


def text_of(where: str, source: bytes) -> str:
    """A file as text. It is UTF-8, whatever it declares: in another encoding, a comment that is read could be a line
    that runs. Raises `RepositoryError` when it is not."""
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{where} is not UTF-8, as code must be: byte {error.start} cannot be read") from None


def parsed(where: str, source: bytes) -> ast.Module:
    """The syntax tree of a file. Raises `RepositoryError`, with the line, when it is not Python."""
    text = text_of(where, source)
    try:
        return ast.parse(text)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise RepositoryError(f"{where}{line} is not valid Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RepositoryError(f"{where} is not valid Python: {error}") from None


def relative_imports(where: str, tree: ast.Module) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every `from .x import y` at any depth: the module's path from the root of the source, and the names imported.

    Args:
        where: the path of the file, relative to the root of the source.

    Raises:
        RepositoryError: an import leads above the root.
    """
    package = PurePosixPath(where).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = len(package) - (node.level - 1)
            if up < 0:
                dots = "." * node.level
                raise RepositoryError(
                    f"{where}, line {node.lineno}: `from {dots}{node.module or ''} import ...` leads out of the folder "
                    "that the code lies in; put what it needs beside it"
                )
            module = tuple(node.module.split(".")) if node.module else ()
            yield (*package[:up], *module), tuple(alias.name for alias in node.names)


def absolute_imports(tree: ast.Module) -> set[str]:
    """The top-level packages that a file imports by name, at any depth."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def imported_names(tree: ast.Module) -> set[str]:
    """The names that a module binds by importing them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return found


def defines_pipeline(tree: ast.Module) -> bool:
    """Whether a file seems to define a pipeline: a class one of whose bases is named `...Pipeline`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
            if any(name.endswith("Pipeline") for name in names):
                return True
    return False


def defines_pack(tree: ast.Module) -> bool:
    """Whether a file seems to define a pack of units: a variable that is a `UnitPack(...)`."""
    values = [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    made = [value.func for value in values if isinstance(value, ast.Call)]
    return any(getattr(call, "id", getattr(call, "attr", "")) == "UnitPack" for call in made)


def declared_requirements(where: str, source: bytes) -> tuple[str, ...]:
    """The packages that a file declares in a `# /// script` header (PEP 723), as it spells them.

    Raises:
        RepositoryError: the header is not TOML, or its `dependencies` are not a list of strings.
    """
    text = source.decode("utf-8", errors="replace").replace("\r\n", "\n")
    found = _HEADER.search(text)
    if found is None:
        return ()
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in found.group(1).splitlines())
    try:
        declared = tomllib.loads("\n".join(lines)).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        raise RepositoryError(f"{where}: the `# /// script` header is not TOML: {error}") from None
    if not isinstance(declared, list) or not all(isinstance(item, str) for item in declared):
        raise RepositoryError(
            f"{where}: `dependencies` in the `# /// script` header must be a list of strings, got {declared!r}"
        )
    return tuple(declared)
