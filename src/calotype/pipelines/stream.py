"""A running call: what `pipe.stream` returns and `pipe(...)` drains."""

from collections.abc import Callable, Generator

import torch

from calotype.errors import InputError
from calotype.graph.plan import Plan
from calotype.graph.run import Run, StepEvent
from calotype.pipelines.recipe import Recipe
from calotype.pipelines.result import Result


class Stream:
    """A running call: an iterator of `StepEvent`. Leaving it early frees everything it holds.

    Between steps it holds no component, so that others, and previews, may have the room.
    """

    def __init__(self, plan: Plan, run: Run, recipe: Callable[[], Recipe]) -> None:
        self.plan = plan
        self._run, self._closed = run, False
        self._results: list[Result] = []
        self._steps = _iterate(run, recipe, self._results)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> StepEvent:
        self._run.watched = True
        return next(self._steps)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop here. Nothing of the call is left behind; a result that is there already stays."""
        self._closed = True
        self._steps.close()
        self._run.wires.clear()

    @property
    def result(self) -> Result:
        """The outputs. Raises `InputError` while there are steps left."""
        if not self._results:
            why = "was closed before its end" if self._closed else "has not finished"
            raise InputError(f"the stream {why}: iterate it to the end, or call finish()")
        return self._results[0]

    def finish(self) -> Result:
        """Run what is left and return the outputs."""
        self._run.watched = False
        for _ in self._steps:
            pass
        return self.result


@torch.no_grad()
def _iterate(run: Run, recipe: Callable[[], Recipe], results: list[Result]) -> Generator[StepEvent, None, None]:
    """The steps of a call, and then its result. Knows nothing of the stream, so that no cycle keeps either alive."""
    try:
        yield from run.execute()
        results.append(Result({wire: run.results(wire) for wire in run.plan.outputs}, recipe))
    finally:
        run.wires.clear()
