"""Files and folders that appear whole or not at all.

Both are written aside, beside their destination, flushed to the disk and then renamed over it. A process that is killed
leaves the destination as it was, and at most a `NAME.partial-XXXXXXXX` beside it that is safe to delete.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from calotype.errors import RepositoryError
from calotype.paths import LONGEST_NAME

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LEFT = re.compile(r".+\.partial-[0-9a-f]{8}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write in place of `path`: it takes that name when the block ends, and is removed if it raises."""
    aside = _aside(path)
    try:
        yield aside
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, owns: Callable[[str], bool]) -> Iterator[Path]:
    """An empty folder to write in place of `folder`; it takes that name when the block ends.

    Args:
        folder: the destination. Its parents are made. An existing folder is exchanged in one step.
        owns: whether an entry of an existing folder belongs to what is being written, and so goes with the old one.
            Every other entry (a model card, a `.git`) is kept.

    Raises:
        RepositoryError: the destination is a file, or the current directory lies in it (it would be swapped away).
    """
    folder = _destination(folder)
    aside = _aside(folder)
    aside.mkdir()
    try:
        yield aside
        for path in aside.rglob("*"):
            _flush(path)
        if folder.exists():
            _link_foreign(folder, aside, owns)
        _flush(aside)
        _take_place(aside, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_left(folder: Path, *names: str) -> None:
    """Remove what processes that were killed left half written in a folder, of files and folders whose names are of
    these patterns. None may be writing such there now."""
    for path in [path for name in names for path in folder.glob(f"{name}.partial-*")]:
        if not _LEFT.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _destination(folder: Path) -> Path:
    folder = folder.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise RepositoryError(f"cannot save to {folder}: it is a file; give the path of a folder")
    if Path.cwd().is_relative_to(folder):
        raise RepositoryError(
            f"cannot save to {folder}: the current directory lies in it, and saving replaces the folder as a whole; "
            "give a folder of its own, for example './my-pipeline'"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _aside(path: Path, what: str = "partial") -> Path:
    """A new name beside a path. Of a long one the end is left out, so that file systems take it."""
    end = f".{what}-{secrets.token_hex(4)}"
    return path.with_name(os.fsdecode(os.fsencode(path.name)[: LONGEST_NAME - len(end)]) + end)


def _take_place(new: Path, folder: Path) -> None:
    """Put `new` at `folder`; what was there, if anything, is at `new` afterwards."""
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        old = _aside(folder, "replaced")
        folder.rename(old)
        new.rename(folder)
        old.rename(new)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step. False where the system or the file system has no such step."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _link_foreign(old: Path, new: Path, owns: Callable[[str], bool]) -> None:
    """Give the new folder what the old one has and does not own. Links take no space, and neither folder is ever
    without them."""
    for entry in old.iterdir():
        target = new / entry.name
        if owns(entry.name) or target.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=_link)
        else:
            _link(entry, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(path: Path) -> None:
    """Wait until the file or the entries of the folder are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
