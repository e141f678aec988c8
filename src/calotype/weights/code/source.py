"""The code of one source as bytes: what is hashed, shown, approved, run and saved is the same value."""

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from keyword import iskeyword
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

from calotype.errors import RepositoryError
from calotype.weights.code.imports import declared_requirements, parsed, relative_imports
from calotype.weights.repository import Repository

LARGEST = 2**20
"""The most bytes that one file of code may have."""


@dataclass(frozen=True)
class Code:
    """Every file that running `main` can run: itself, and what it imports relatively, and they in turn.

    Attributes:
        source: what the user called it: a path, a shipped name, or the id of a repository on a hub.
        main: the path of the file that defines the pipeline or pack, relative to the root of the source.
        files: content by relative path.
        revision: the commit on the hub; None for a folder.
        own: the user typed the path of this code, and so runs it as a program of their own.
    """

    source: str
    main: str
    files: Mapping[str, bytes]
    revision: str | None = None
    own: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))

    @cached_property
    def digest(self) -> str:
        """`"sha256:..."` of every path and every byte."""
        whole = hashlib.sha256(b"calotype code 1\0")
        for path, content in sorted(self.files.items()):
            for part in (path.encode(), content):
                whole.update(len(part).to_bytes(8, "big") + part)
        return f"sha256:{whole.hexdigest()}"

    @property
    def module(self) -> str:
        """The main file as an index names it: `"pipeline"` for `pipeline.py`."""
        return self.main.removesuffix(".py")

    @property
    def where(self) -> str:
        """The main file, for messages."""
        at = f"@{self.revision}" if self.revision else ""
        if self.own and self.source.endswith(".py"):
            return self.source
        return f"{self.source}{at}/{self.main}"

    @property
    def approval_command(self) -> str:
        """What to type to approve exactly this."""
        return f"calotype trust {shlex.quote(self.source + (f'@{self.revision}' if self.revision else ''))}"

    @property
    def requirements(self) -> tuple[str, ...]:
        """The packages that its files declare, in the order of the files."""
        found = (item for path, source in self.files.items() for item in declared_requirements(path, source))
        return tuple(dict.fromkeys(found))


class Tree(Protocol):
    """The files that code is read from."""

    @property
    def name(self) -> str:
        """What the user called it."""

    def has(self, path: str) -> bool:
        """Whether there is a file of this path, relative to the root."""

    def read(self, path: str) -> bytes:
        """Its content, read once. Raises `RepositoryError`."""


class LocalTree:
    """A folder on this machine. A link that leads out of it is refused, but for a hub client's own cache."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = str(root) if name is None else name

    def has(self, path: str) -> bool:
        """See `Tree.has`."""
        return (self.root / path).is_file()

    def read(self, path: str) -> bytes:
        """See `Tree.read`."""
        place, root = self.root / path, self.root.resolve()
        real = place.resolve()
        blobs = root.parent.parent / "blobs"  # where a snapshot in a hub client's cache keeps what its links lead to
        cached = root.parent.name == "snapshots" and real.parent == blobs
        if not real.is_relative_to(root) and not cached:
            raise RepositoryError(f"{place} is a link that leads out of {self.root}, to {real}, and is refused")
        try:
            return limited(str(place), real.read_bytes())
        except OSError as error:
            raise RepositoryError(f"{place} cannot be read: {error.strerror or error}") from None


class RepositoryTree:
    """The files of a repository, fetched as they are asked for."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.name = repository.name
        self._names = frozenset(repository.files())

    def has(self, path: str) -> bool:
        """See `Tree.has`."""
        return path in self._names

    def read(self, path: str) -> bytes:
        """See `Tree.read`."""
        return limited(f"{self.name}/{path}", (self.repository.fetch([path]) / path).read_bytes())


def collect(tree: Tree, main: str) -> dict[str, bytes]:
    """Every file that running `main` can run, each read once, by relative path; `main` first.

    Raises:
        RepositoryError: a file cannot be read, is not Python or too large, or imports from above the root.
    """
    files: dict[str, bytes] = {}
    waiting = [main]
    while waiting:
        path = waiting.pop(0)
        if path not in files:
            files[path] = tree.read(path)
            for module, names in relative_imports(path, parsed(f"{tree.name}: {path}", files[path])):
                waiting += _files_of(tree, module, names)
    return files


def _files_of(tree: Tree, module: tuple[str, ...], names: tuple[str, ...]) -> Iterator[str]:
    """The files that `from .module import names` runs: the `__init__.py` of every package on the way, the module's, and
    those of names that are modules themselves."""
    ways = [module[:depth] for depth in range(1, len(module) + 1)]
    ways += [(*module, name) for name in names if name != "*"]
    for way in ways:
        path = "/".join(way)
        yield from [file for file in (f"{path}/__init__.py", f"{path}.py") if tree.has(file)][:1]


def file_of_module(where: str, module: str) -> str:
    """The file that an index means by a module. Raises `RepositoryError` unless it is a plain name, so that it can only
    be a file beside the index."""
    if not module.isidentifier() or iskeyword(module):
        raise RepositoryError(
            f"{where}: {module!r} is not the name of a Python file beside the index; it must be letters, digits and "
            "underscores, such as 'pipeline'"
        )
    return f"{module}.py"


def check_main(where: str, path: str) -> str:
    """`path`, if it is a Python file at the root whose name a module can have; else `RepositoryError`."""
    stem = path.removesuffix(".py")
    if stem == path or not stem.isidentifier() or iskeyword(stem):
        better = re.sub(r"[-. ]", "_", PurePosixPath(path).name.removesuffix(".py"))
        hint = f"; rename it to {better}.py" if path.endswith(".py") and "/" not in path else ""
        raise RepositoryError(
            f"{where}: {path!r} cannot be the file of a pipeline, which lies at the root, is named by letters, digits "
            f"and underscores and ends in .py{hint}"
        )
    return path


def limited(where: str, content: bytes) -> bytes:
    """`content`, if it is small enough to be code; else `RepositoryError`."""
    if len(content) > LARGEST:
        raise RepositoryError(f"{where} has {len(content)} bytes; a file of code has at most {LARGEST}")
    return content
