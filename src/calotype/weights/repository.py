"""Where files come from: a folder on this machine, or a repository on a hub whose files are fetched when needed."""

import os
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Protocol

from calotype.errors import RepositoryError, did_you_mean
from calotype.paths import path_of
from calotype.weights.hub import HubRepository, check_inside, is_hub_id
from calotype.weights.modelscope import PREFIX, ModelScopeRepository

SHIPPED = "calotype/"
"""What the names of models that ship with the package begin with."""
_ASSETS = Path(__file__).parent.parent / "assets"


class Repository(Protocol):
    """A set of files under one root. A repository on a hub is one commit of it from the first question to the last."""

    @property
    def name(self) -> str:
        """What the caller called it: a path, or the id on the hub."""

    @property
    def revision(self) -> str | None:
        """The commit that all files come from; None for a folder."""

    def files(self) -> tuple[str, ...]:
        """The paths of all files, relative to the root, with `/` between their parts, sorted."""

    def fetch(self, paths: Iterable[str]) -> Path:
        """Make these files be there, and return the folder that they lie in under the same relative paths.

        Raises:
            RepositoryError: a file that the repository does not have, or that cannot be fetched.
        """


class Folder:
    """A repository that is a folder on this machine. Raises `RepositoryError` when there is none."""

    revision: str | None = None

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path_of(path, "a repository", "the path of a folder")
        self.name = str(path)
        if not self.path.is_dir():
            what = "is a file; give the folder that holds it" if self.path.exists() else "does not exist"
            raise RepositoryError(f"{self.path} {what}")

    def files(self) -> tuple[str, ...]:
        """See `Repository.files`. Raises `RepositoryError` where something in the folder cannot be looked at."""
        try:
            return tuple(sorted(_walk(self.path, "", ())))
        except OSError as error:
            raise RepositoryError(f"{self.path} cannot be listed: {error}") from None

    def fetch(self, paths: Iterable[str]) -> Path:
        """See `Repository.fetch`. Nothing is copied."""
        for path in paths:
            if not (self.path / check_inside(self.name, path)).is_file():
                raise RepositoryError(f"{self.path} has no file {path}")
        return self.path


def _walk(folder: Path, at: str, above: tuple[Path, ...]) -> Iterator[str]:
    """The files below a folder, also through links to folders; one that leads back to a folder above it is left out,
    and so is what git keeps for itself."""
    real = folder.resolve()
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield at + entry.name
            elif entry.is_dir() and entry.name != ".git":
                yield from _walk(Path(entry.path), f"{at}{entry.name}/", (*above, real))


def open_repository(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Repository:
    """The repository that `source` means: a model that ships with the package, a folder where there is one of that
    path, or an id on a hub.

    Args:
        source: a path; `"calotype/..."`, the name of a shipped model; `"owner/name"` on the hub; or
            `"modelscope:owner/name"`. Those on a hub may have `@revision` at the end.
        revision: a branch, tag or commit; on the hub it is resolved to a commit once.
        cache_dir: where files of a hub are kept, by default the hub client's own cache.
        local_files_only: fetch nothing; take what the cache has.

    Raises:
        RepositoryError: there is no such repository or revision, or the hub cannot be reached.
    """
    shipped = _shipped(source)
    path = shipped or path_of(source, "a repository", "the path of a folder or 'owner/name'")
    if not str(source):
        raise RepositoryError("there is no folder ''")
    if _is_there(path):
        if revision is not None:
            raise RepositoryError(f"{source} is on this machine and has no revisions; leave out revision={revision!r}")
        return Folder(shipped or source)
    name, revision = _split(source, revision)
    if not is_id(name):
        shown = source if str(source).strip() else repr(source)
        raise RepositoryError(f"there is no folder {shown}{meant_by(source)}")
    kind = ModelScopeRepository if str(name).startswith(PREFIX) else HubRepository
    return kind(str(name), revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)


def _is_there(path: Path) -> bool:
    """Whether there is something. Raises `RepositoryError` where it may not be looked at."""
    try:
        return path.exists()
    except OSError as error:
        raise RepositoryError(f"{path} cannot be looked at: {error.strerror}") from None


def meant_by(source: str | PathLike[str]) -> str:
    """What may be meant by a source that is neither a folder nor an id: the end of a message."""
    if f"{SHIPPED}{source}" in _all_shipped():
        return f"; write '{SHIPPED}{source}' for the model that ships with calotype"
    text = str(source).replace("\\", "/")
    scheme, _, address = text.rpartition("://")
    if scheme == "file":
        return f"; write the path alone, {address!r}"
    parts = address.strip("/").split("/")
    host = parts.pop(0) if scheme.startswith("http") else ""
    if host.endswith("github.com"):
        return "; files there are not fetched: download them, and give the path of their folder"
    meant = "/".join(parts[:2] if scheme else parts)
    if isinstance(source, str) and meant != source and is_id(meant):
        return f"; write {meant!r} if you mean the repository of that id on a hub"
    if isinstance(source, str) and text.count("/") == 1:
        return ", and an id on a hub is 'owner/name', of letters, digits and -_."
    return ""


def _shipped(source: str | PathLike[str]) -> Path | None:
    """The folder of a model that ships with the package; None for any other source."""
    if not isinstance(source, str) or not source.startswith(SHIPPED):
        return None
    names = _all_shipped()
    if source in names:
        return _ASSETS / source.removeprefix(SHIPPED)
    if Path(source).exists():
        return None
    raise RepositoryError(
        f"no model {source!r} ships with calotype{did_you_mean(source, names)}; there is {', '.join(names)}"
    )


def _all_shipped() -> list[str]:
    """The names of the models that ship with the package."""
    folders = _ASSETS.iterdir() if _ASSETS.is_dir() else ()
    return sorted(f"{SHIPPED}{path.name}" for path in folders if path.is_dir())


def is_id(source: object) -> bool:
    """Whether `source` is spelled like the id of a repository on a hub or on ModelScope, without a revision."""
    return is_hub_id(source.removeprefix(PREFIX) if isinstance(source, str) else source)


def _split(source: str | PathLike[str], revision: str | None) -> tuple[str | PathLike[str], str | None]:
    """The id and the revision of `"owner/name@revision"`."""
    name, sign, inline = source.partition("@") if isinstance(source, str) else ("", "", "")
    if not sign or not is_id(name):
        return source, revision
    if revision is not None and revision != inline:
        raise RepositoryError(f"{source} names the revision {inline!r}, and revision={revision!r} was given; give one")
    return name, inline
