"""Processes that end with the one that started them, which may be killed and then ends nothing itself."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from threading import Thread

from calotype.errors import ConfigError


def end_with_parent() -> None:
    """Have this process, which another one started, end as soon as that is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "it is started by another"
    Thread(target=_end_after, args=(parent,), daemon=True).start()


def refuse_script_again(other: str) -> None:
    """Raise `ConfigError`, which says what `other` there is to do, in a process that another one started to compute for
    it, and that runs the script from its start before it does: it would start others, or wait for what the first has.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "a worker runs the script from its start, and so would fill the cache itself; put what trains below "
            f"`if __name__ == '__main__':`, {other}"
        )


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
