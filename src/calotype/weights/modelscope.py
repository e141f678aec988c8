"""Repositories on ModelScope, `"modelscope:owner/name"`, through its own client where that is installed.

ModelScope lists the files of a branch or a tag with their hashes. The list is read once, and a file that has changed
since is refused, so that all files of a load belong together.
"""

import hashlib
from collections.abc import Iterable, Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from calotype.errors import RepositoryError, did_you_mean
from calotype.paths import path_of
from calotype.weights.hub import check_inside, check_revision

PREFIX = "modelscope:"
DEFAULT_REVISION = "master"


class ModelScopeRepository:
    """A branch or a tag of a repository on ModelScope, as it was when this object was made.

    Args:
        name: `"modelscope:owner/name"`.
        revision: a branch or a tag; by default `master`.
        cache_dir: where files are kept, by default the client's own cache.
        local_files_only: ask nobody; take what the cache has.

    Raises:
        RepositoryError: the client is not installed, or it finds no such repository or revision.
    """

    revision: str

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        self.name = name
        self.revision = DEFAULT_REVISION if revision is None else revision
        check_revision(name, self.revision)
        self.offline: str | None = "local_files_only=True was given" if local_files_only else None
        self._id = name.removeprefix(PREFIX)
        self._options: dict[str, Any] = {"revision": self.revision, "local_files_only": local_files_only}
        if cache_dir is not None:
            self._options["cache_dir"] = str(path_of(cache_dir, "cache_dir", "the path of a folder"))
        self._root = self._cached() if local_files_only else None
        self._listed = self._here() if self._root is not None else self._list()

    def files(self) -> tuple[str, ...]:
        """See `Repository.files`. With `local_files_only`, these are the files that were downloaded before."""
        return tuple(sorted(self._listed))

    def fetch(self, paths: Iterable[str]) -> Path:
        """See `Repository.fetch`."""
        wanted = sorted(set(paths))
        if lost := [path for path in wanted if path not in self._listed]:
            at = f"{self.name} at {self.revision}"
            where = f" in the cache, and {self.offline}" if self.offline else did_you_mean(lost[0], self._listed)
            raise RepositoryError(f"{at} has no file {', '.join(lost)}{where}")
        for path in wanted:
            self._root = self._fetch(check_inside(self.name, path))
        return self._root if self._root is not None else Path()

    def _fetch(self, path: str) -> Path:
        if self.offline and self._root is not None:
            return self._root
        download = _client("modelscope.hub.file_download").model_file_download
        found = Path(self._ask(lambda: download(self._id, path, **self._options)))
        parts = Path(path).parts
        if found.parts[-len(parts) :] != parts:
            raise RepositoryError(f"{self.name}: the client put {path} at {found}, where it was not expected")
        digest = self._listed[path]
        if digest is not None:
            with found.open("rb") as content:
                now = hashlib.file_digest(content, "sha256").hexdigest()
            if now != digest:
                raise RepositoryError(
                    f"{self.name}: {path} is not the file that {self.revision} had when this load began; load again"
                )
        return found.parents[len(parts) - 1]

    def _list(self) -> Mapping[str, str | None]:
        api = _client("modelscope.hub.api").HubApi()
        files = self._ask(lambda: api.get_model_files(self._id, revision=self.revision, recursive=True))
        return {file["Path"]: file.get("Sha256") or None for file in files if file.get("Type") != "tree"}

    def _cached(self) -> Path:
        snapshot = _client("modelscope.hub.snapshot_download").snapshot_download
        return Path(self._ask(lambda: snapshot(self._id, **self._options)))

    def _here(self) -> Mapping[str, str | None]:
        root = self._root
        assert root is not None, "only asked for a folder that is there"
        paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return {path.as_posix(): None for path in paths if not path.name.startswith(".")}

    def _ask(self, question: Any) -> Any:
        try:
            return question()
        except RepositoryError:
            raise
        except Exception as error:  # the client has no common base of its errors
            raise RepositoryError(f"{self.name} at {self.revision}: {type(error).__name__}: {error}") from error


def _client(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise RepositoryError(
            f"{PREFIX}... needs ModelScope's client, which cannot be imported ({error}); `pip install modelscope`"
        ) from None
