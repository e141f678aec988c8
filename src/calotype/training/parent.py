"""Processes that end with the one that started them, which may be killed and then ends nothing itself."""

import multiprocessing
import os
from threading import Thread


def end_with_parent() -> None:
    """Have this process, which another one started, end as soon as that is gone."""
    Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "it is started by another"
    parent.join()
    os._exit(1)
