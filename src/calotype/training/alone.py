"""One process at a time in a folder, where it has a file locked. The lock of one that is killed is free."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from calotype.errors import TrainingError

logger = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path, name: str, who: str, *, wait: bool) -> Iterator[None]:
    """Be the one process that writes into a folder while the context lasts. It is made where it is not there.

    Args:
        name: of the file that is locked.
        who: which setting the folder is of.
        wait: for another process that writes there, which is an error otherwise.

    Raises:
        TrainingError: another process writes there, or nothing can be written there.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            other = f"{folder} is written by another process{_unless_left(lock)}"
            if not wait:
                raise TrainingError(f"{who}: {other}; wait for it, or give another folder") from None
            logger.warning("%s: %s, which is waited for", who, other)
            lock.acquire()
    except NotImplementedError:
        logger.warning("%s: %s is on a file system without locks: nothing else may write there now", who, folder)
    except OSError as error:
        raise TrainingError(f"{who}: {folder} cannot be written to: {error}; give another folder") from error
    try:
        yield
    finally:
        lock.release()


def _unless_left(lock: BaseFileLock) -> str:
    """What to say of a lock that is only a file, as the file system has no others: one that was killed on another
    machine leaves it."""
    return f" (if none does, remove {lock.lock_file})" if isinstance(lock, SoftFileLock) else ""
