"""Large files of a hub, fetched so that a process that dies in the middle loses nothing.

The client resumes a transfer that the network cuts, but starts a file again when its process was stopped. Here the part
that has come is kept beside its destination in the client's cache, the next process goes on after it, and the whole is
checked against the hash that the hub lists before it takes its place. A file that the client gets by its Xet protocol,
in many small parts, is left to the client.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from calotype.errors import RepositoryError

_AT_ONCE = 4


@dataclass(frozen=True)
class LargeFile:
    """A file that the hub keeps by its hash: its path in the repository, its bytes and their SHA-256."""

    path: str
    size: int
    digest: str


def fetch_large(name: str, commit: str, files: Sequence[LargeFile], cache: Path, endpoint: str | None) -> None:
    """Put the contents of `files` into the client's cache, several at once, going on where another process stopped.

    Raises what the client raises, and `RepositoryError` for contents that are not what the hub lists.
    """
    if len(files) == 1:
        _fetch(name, commit, files[0], cache, endpoint)
    elif files:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda file: _fetch(name, commit, file, cache, endpoint), files))


def _fetch(name: str, commit: str, file: LargeFile, cache: Path, endpoint: str | None) -> None:
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not declared

    repository = f"models--{name.replace('/', '--')}"
    blob = cache / repository / "blobs" / file.digest
    if blob.exists():
        return
    url = hf_hub_url(name, file.path, revision=commit, endpoint=endpoint)
    found = get_hf_file_metadata(url, library_name="calotype")
    if (found.xet_file_data is not None and _xet()) or found.etag != file.digest:
        return
    headers = build_hf_headers(library_name="calotype")
    if found.location != url:
        headers.pop("authorization", None)  # another host, whose address says already that we may
    lock = cache / ".locks" / repository / f"{file.digest}.lock"  # the client's own
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not blob.exists():
            _go_on(found.location, blob, file, headers)


def _go_on(address: str, blob: Path, file: LargeFile, headers: dict[str, str]) -> None:
    from huggingface_hub.file_download import http_get

    partial = blob.with_name(f"{blob.name}.partial")
    there = partial.stat().st_size if partial.exists() else 0
    if there > file.size:
        partial.unlink()
        there = 0
    with partial.open("ab") as out:
        http_get(
            address, out, resume_size=there, headers=headers, expected_size=file.size, displayed_filename=file.path
        )
    with partial.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != file.digest:
        partial.unlink()
        raise RepositoryError(
            f"{file.path} came with other contents than the hub lists (SHA-256 {digest[:12]}..., expected "
            f"{file.digest[:12]}...) and was deleted; load again"
        )
    partial.replace(blob)


def _xet() -> bool:
    """Whether the client has its Xet protocol."""
    from huggingface_hub.utils import _runtime

    available = getattr(_runtime, "is_xet_available", None)
    return bool(available()) if available is not None else False
