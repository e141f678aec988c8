"""One process at a time in a folder."""

import errno
import fcntl
import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock

from calotype.errors import TrainingError
from calotype.training.alone import alone_in
from calotype.training.prior import LOCK, prior_rows
from training.small import small


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def enter(folder: Path, wait: bool = False) -> None:
    with alone_in(folder, "a.lock", "output", wait=wait):
        pass


def test_the_second_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with alone_in(tmp_path / "new", "a.lock", "output", wait=False):
        with pytest.raises(TrainingError, match=r"output: .*new is written by another process; wait for it, or give"):
            enter(tmp_path / "new")
        enter(tmp_path)
    enter(tmp_path / "new")


@pytest.mark.parametrize("wait", [False, True])
def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"output: .*file/run cannot be written to: .*; give another folder"):
        enter(tmp_path / "file" / "run", wait)
    for error in (errno.EROFS, errno.ENOLCK):
        monkeypatch.setattr(fcntl, "flock", raising(OSError(error, "no locks here")))
        with pytest.raises(
            TrainingError, match=r"output: .* cannot be written to: .*no locks here; give another folder"
        ):
            enter(tmp_path, wait)


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Older versions of what locks say so, newer ones have a file stand for the lock."""
    with monkeypatch.context() as patched:
        patched.setattr(FileLock, "acquire", raising(NotImplementedError("no flock")))
        enter(tmp_path)
    assert "is on a file system without locks: nothing else may write there now" in caplog.text
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOSYS, "no flock")))
    with pytest.warns(UserWarning, match="flock not supported"):
        enter(tmp_path)


def test_what_stands_for_a_lock_and_was_left_on_another_machine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOSYS, "no flock")))
    (tmp_path / "a.lock").write_text("1\nanother-machine\n")
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        pytest.raises(TrainingError, match=r"by another process \(if none does, remove .*a\.lock\); wait for it"),
    ):
        enter(tmp_path)


def test_of_two_that_draw_pictures_of_a_class_the_second_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It removed what the first was writing, which failed then."""
    caplog.set_level(logging.WARNING)
    half = tmp_path / "00000.png.partial-01234567"
    half.write_bytes(b"half")
    thread = Thread(target=prior_rows, args=(small(), {"prompt": "colour"}, tmp_path), kwargs={"count": 1})
    with FileLock(tmp_path / LOCK):
        thread.start()
        until = time.monotonic() + 60
        while "is written by another process, which is waited for" not in caplog.text:
            assert time.monotonic() < until and thread.is_alive()
            time.sleep(0.01)
        assert half.exists()
    thread.join(60)
    assert not half.exists() and (tmp_path / "00000.png").exists()
