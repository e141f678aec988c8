"""A running call: what `pipe.stream` returns and `pipe(...)` drains."""

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import torch

from calotype.errors import InputError
from calotype.graph.events import StepEvent
from calotype.graph.plan import Plan
from calotype.graph.run import Run
from calotype.pipelines.result import Result

if TYPE_CHECKING:
    from calotype.pipelines.replay.recipe import Recipe


class Stream:
    """A running call: an iterator of `StepEvent`. Leaving it early frees everything it holds; `close` may be called
    from another thread, and then ends the call after the step that runs.

    Between steps it holds no component, so that others, and previews, may have the room.
    """

    def __init__(self, plan: Plan, run: Run, recipe: "Callable[[], Recipe]") -> None:
        self.plan = plan
        self._run, self._closed = run, False
        self._failure: str | None = None
        self._stepping = threading.Lock()
        self._results: list[Result] = []
        self._steps = _iterate(run, recipe, self._results)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> StepEvent:
        return self._step(watched=True)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop here, or after the step that another thread runs. Nothing of the call is left behind; a result that is
        there already stays."""
        self._closed = True
        self._run.watched = True  # so that a loop stops at its next step
        if self._stepping.acquire(blocking=False):  # else who runs the step does it
            try:
                self._steps.close()
                self._run.wires.clear()
            finally:
                self._stepping.release()

    @property
    def result(self) -> Result:
        """The outputs. Raises `InputError` while there are steps left, or where the call failed or was closed."""
        if not self._results:
            if self._failure is not None:
                raise InputError(f"the stream has no result: its call failed with {self._failure}; make another call")
            if self._closed:
                raise InputError("the stream was closed before its end, so there is no result; make another call")
            raise InputError("the stream has not finished: iterate it to the end, or call finish()")
        return self._results[0]

    def finish(self) -> Result:
        """Run what is left and return the outputs."""
        try:
            while True:
                self._step(watched=False)
        except StopIteration:
            return self.result

    def _step(self, *, watched: bool) -> StepEvent:
        """The next step, or with nobody who looks the rest. Raises `StopIteration` at the end, and once the stream was
        closed."""
        try:
            with self._stepping:
                self._run.watched = watched
                if self._closed:  # before that, or else whoever closes has it watched
                    self._run.watched = True
                event = next(self._steps)
        except (StopIteration, GeneratorExit):
            raise
        except BaseException as error:
            self._failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise
        finally:
            if self._closed:
                self.close()
        if self._closed:
            raise StopIteration
        return event


@torch.no_grad()
def _iterate(run: Run, recipe: "Callable[[], Recipe]", results: list[Result]) -> Generator[StepEvent, None, None]:
    """The steps of a call, and then its result. Knows nothing of the stream, so that no cycle keeps either alive."""
    try:
        yield from run.execute()
        results.append(Result({wire: run.results(wire) for wire in run.plan.outputs}, recipe, run.plan.chosen))
    finally:
        run.wires.clear()
