"""Repositories on a hub: one commit, the list of its files, and only those of them that somebody asks for."""

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from calotype.atomic import atomic_file
from calotype.errors import InputError, RepositoryError, did_you_mean, listed
from calotype.paths import path_of
from calotype.weights.transfer import LargeFile, fetch_large

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_ID = re.compile(rf"{_PART}/{_PART}")
_SECONDS = 10.0


def is_hub_id(source: object) -> bool:
    """Whether `source` is spelled like the id of a repository on a hub, `"owner/name"`."""
    return isinstance(source, str) and _ID.fullmatch(source) is not None and ".." not in source and "--" not in source


class HubRepository:
    """One commit of a repository on the hub that `HF_ENDPOINT` names, by default the Hugging Face hub.

    The commit is resolved once, here; all files come from it, even if the branch moves meanwhile. Files are kept in the
    hub client's cache and shared with every other program that uses it. Where the hub cannot be reached, or
    `HF_HUB_OFFLINE=1` is set, the commit that the cache has for the revision is used, and this is logged.

    Args:
        name: `"owner/name"`.
        revision: a branch, a tag or a commit; by default the branch `main`.
        cache_dir: where files are kept, by default the client's own cache (`HF_HUB_CACHE`).
        local_files_only: ask nobody; take what the cache has.

    Raises:
        RepositoryError: there is no such repository or revision, it may not be read, or the hub cannot be reached and
            the cache does not have the revision.
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
        self._asked = DEFAULT_REVISION if revision is None else revision
        check_revision(name, self._asked)
        self._cache = _cache_folder(cache_dir)
        self._sizes: Mapping[str, int | None] | None = None
        self._large: Mapping[str, LargeFile] = {}
        self._why_offline: str | None = "local_files_only=True was given" if local_files_only else _switched_off()
        self.revision = self._cached_commit() if self._why_offline else self._resolve()

    @property
    def offline(self) -> str | None:
        """Why only the cache is used; None where files are fetched."""
        return self._why_offline

    def files(self) -> tuple[str, ...]:
        """See `Repository.files`. Offline, these are the files that were downloaded before."""
        if self._sizes is not None:
            return tuple(sorted(self._sizes))
        here = self._snapshot
        return tuple(sorted(p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()))

    def fetch(self, paths: Iterable[str]) -> Path:
        """See `Repository.fetch`. Shows progress; a transfer that was cut, also of another process, goes on where it
        stopped, and a file that is there is kept."""
        wanted = sorted(set(paths))
        known = set(self.files())
        if lost := [path for path in wanted if path not in known]:
            raise RepositoryError(self._without(lost, known))
        try:
            missing = [path for path in wanted if not (self._snapshot / check_inside(self.name, path)).is_file()]
        except OSError as error:  # a name that this machine cannot have
            raise RepositoryError(f"{self.name} at {self.revision}: {error}") from None
        if missing:
            self._download(missing)
        self._check_sizes(wanted)
        self._remember()
        return self._snapshot

    @property
    def _home(self) -> Path:
        return self._cache / f"models--{self.name.replace('/', '--')}"

    @property
    def _snapshot(self) -> Path:
        return self._home / "snapshots" / self.revision

    def _resolve(self) -> str:
        with self._explained():
            try:
                info = _api().model_info(self.name, revision=self._asked, files_metadata=True, timeout=_SECONDS)
            except Exception as error:
                if not _unreachable(error):
                    raise
                self._why_offline = f"the hub at {_api().endpoint} cannot be reached ({_first_line(error)})"
        if self._why_offline:
            commit = self._cached_commit()
            logger.warning("%s: %s; using commit %s from the cache", self.name, self._why_offline, commit)
            return commit
        if info.id != self.name:
            logger.warning("%s has moved to %s; use that name", self.name, info.id)
        files = info.siblings or ()
        self._sizes = {file.rfilename: file.size for file in files}
        large = ((file.rfilename, file.lfs) for file in files)
        self._large = {path: LargeFile(path, lfs.size, lfs.sha256) for path, lfs in large if lfs is not None}
        assert info.sha is not None, "a hub answers with the commit"
        return info.sha

    def _download(self, missing: list[str]) -> None:
        if self._why_offline:  # the cache's own list has them, so only a damaged cache leads here
            raise RepositoryError(self._without(missing, ()))
        from huggingface_hub import snapshot_download

        large = [self._large[path] for path in missing if path in self._large]
        with self._explained():
            fetch_large(self.name, self.revision, large, self._cache, endpoint())
            snapshot_download(
                self.name,
                revision=self.revision,
                allow_patterns=[glob.escape(path) for path in missing],
                cache_dir=self._cache,
                endpoint=endpoint(),
                library_name="calotype",
            )

    def _remember(self) -> None:
        """Keep which commit the branch or tag is, where the client looks for it offline. Also where no file was
        missing, because the commit may have been loaded by its own name, or as another branch."""
        if self._why_offline or self._asked == self.revision or self._remembered() == self.revision:
            return
        ref = self._home / "refs" / self._asked
        try:
            ref.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(ref) as aside:
                aside.write_text(self.revision, encoding="utf-8")
        except OSError as error:  # a cache that is only read, or a branch `a` where `a/b` was one
            logger.warning("%s: %r will not be known offline: %s", self.name, self._asked, error)

    def _remembered(self) -> str | None:
        """The commit that the cache has for the branch or tag."""
        try:
            return (self._home / "refs" / self._asked).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):  # none, or one that no client wrote
            return None

    def _cached_commit(self) -> str:
        asked = self._asked
        commit = self._remembered() or asked
        if _COMMIT.fullmatch(commit) and (self._home / "snapshots" / commit).is_dir():
            return commit
        snapshots = self._home / "snapshots"
        there = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
        what = f"commits {', '.join(there)} only" if there else "nothing of it"
        raise RepositoryError(
            f"there is no folder {self.name!r}, and revision {asked!r} of the repository of that id cannot be loaded: "
            f"{self._why_offline}, and the cache {self._cache} has "
            f"{what}; load it once with a connection, or give the folder's path"
        )

    def _check_sizes(self, paths: list[str]) -> None:
        if lost := [path for path in paths if not (self._snapshot / path).is_file()]:
            shown = listed(lost)
            raise RepositoryError(  # a client that cannot reach the hub any more may return what it has
                f"{self.name} at {self.revision}: the download failed, {shown} did not come; load again to go on where "
                "it stopped"
            )
        for path in paths:
            size = (self._sizes or {}).get(path)
            found = (self._snapshot / path).stat().st_size
            if size is not None and size != found:
                raise RepositoryError(
                    f"{self.name}: the cached file {self._snapshot / path} is damaged: expected {size} bytes, found "
                    f"{found}; delete {(self._snapshot / path).resolve()} and load again"
                )

    def _without(self, lost: list[str], known: Iterable[str]) -> str:
        at = f"{self.name} at {self.revision}"
        shown = listed(lost)
        if self._why_offline:
            return f"{at}: {shown} {'is' if len(lost) == 1 else 'are'} not in the cache, and {self._why_offline}"
        return f"{at} has no file {shown}{did_you_mean(lost[0], known)}"

    def _gone(self, error: BaseException) -> RepositoryError:
        why = "" if getattr(error, "response", None) is None else f" ({_first_line(error)})"
        return RepositoryError(
            f"{self.name}: the download failed, because {_api().endpoint} cannot be reached any more{why}; load again "
            "to go on where it stopped"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what the client's errors mean here."""
        from huggingface_hub import errors

        try:
            yield
        except errors.RevisionNotFoundError:
            raise RepositoryError(f"{self.name} has no branch, tag or commit {self._asked!r}") from None
        except errors.GatedRepoError:
            raise RepositoryError(
                f"{self.name} is gated: accept its terms on its page ({endpoint() or 'the hub'}/{self.name}) and log "
                "in with `hf auth login`, or set HF_TOKEN"
            ) from None
        except errors.RepositoryNotFoundError:
            raise RepositoryError(
                f"there is no folder {self.name!r}, and no repository of that id on {_api().endpoint}; check the "
                "spelling, and if it is private log in with `hf auth login` or set HF_TOKEN"
            ) from None
        except errors.LocalEntryNotFoundError as error:  # what the client says when it gave up asking
            raise self._gone(error) from error
        except errors.EntryNotFoundError as error:
            raise RepositoryError(f"{self.name} at {self.revision}: {_first_line(error)}") from error
        except errors.HFValidationError as error:
            raise RepositoryError(f"{self.name!r} is not the id of a repository: {_first_line(error)}") from None
        except errors.HfHubHTTPError as error:
            if _unreachable(error):
                raise self._gone(error) from error
            raise RepositoryError(f"{self.name}: {_api().endpoint} refused: {_first_line(error)}") from error
        except Exception as error:
            if isinstance(error, OSError) or _unreachable(error):
                raise RepositoryError(
                    f"{self.name}: the download failed: {_first_line(error)}; load again to go on where it stopped"
                ) from error
            if isinstance(error, ValueError | KeyError | TypeError):  # what reading a web page as an answer leads to
                raise RepositoryError(
                    f"{self.name}: {_api().endpoint} does not answer as a hub does ({_first_line(error)}); check "
                    "HF_ENDPOINT and your proxy"
                ) from error
            raise


def endpoint() -> str | None:
    """The hub that `HF_ENDPOINT` names now; None for the client's default."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def check_inside(where: str, path: str) -> str:
    """`path`, if it stays inside the folder that it is relative to; else `RepositoryError`."""
    pure = PurePosixPath(path)
    drive = len(path) > 1 and path[1] == ":"
    if not path or "\\" in path or "\0" in path or drive or pure.is_absolute() or ".." in pure.parts:
        raise RepositoryError(f"{where}: {path!r} leads out of the repository, and is refused")
    return path


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="calotype")


def _cache_folder(cache_dir: str | PathLike[str] | None) -> Path:
    if cache_dir is not None and not str(cache_dir):
        raise InputError("cache_dir must be the path of a folder, got ''; leave it out for the hub client's own cache")
    cache_dir = cache_dir or os.environ.get("HF_HUB_CACHE")
    if not cache_dir:
        from huggingface_hub.constants import HF_HUB_CACHE

        cache_dir = HF_HUB_CACHE
    return path_of(cache_dir, "cache_dir", "the path of a folder").resolve()


def _switched_off() -> str | None:
    """Why no hub may be asked; None where one may. Read when asked, and as the client read it when it was imported."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    on = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return "HF_HUB_OFFLINE is set" if on or HF_HUB_OFFLINE else None


def check_revision(name: str, revision: str) -> None:
    """Raise `RepositoryError` unless `revision`, a part of a path, is spelled like a branch, a tag or a commit."""
    if not isinstance(revision, str) or not revision or ".." in revision or revision.startswith(("/", "-")):
        raise RepositoryError(f"{name}: revision must be a branch, a tag or a commit, got {revision!r}")
    check_inside(name, revision)


def _unreachable(error: BaseException) -> bool:
    """Whether no answer came, or one that says to come back later. The client has had several HTTP libraries, whose
    errors of the connection have this one name in common."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        return bool(response.status_code >= 500 or response.status_code == 429)
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"TransportError", "OfflineModeIsEnabled"}) or isinstance(error, ConnectionError | TimeoutError)


def _first_line(error: BaseException) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
