"""Units that drive all branches themselves, limited to what they declare."""

from typing import Any

import pytest

from calotype.errors import GraphError
from calotype.graph.branches import Branches
from calotype.graph.take_over import State, takes_over


def test_take_over_takes_a_state_and_components():
    with pytest.raises(GraphError, match=r"regions: a take-over unit takes `state: State` first"):

        @takes_over(reads={}, writes={"x": int})
        def regions(x: int) -> None: ...

    with pytest.raises(GraphError, match=r"regions2: 'y' must come after `\*`; values are read from the state"):

        @takes_over(reads={}, writes={"x": int})
        def regions2(state: State, y: int) -> None: ...


def test_state_is_limited_to_what_was_declared():
    @takes_over(reads={"prompt": Branches[str]}, writes={"masks": int})
    def regions(state: State, *, encoder: Any) -> None:
        state["masks"] = len(state["prompt"])

    state = State("regions", {"prompt": Branches(positive="a"), "size": 3}, regions.reads, regions.writes)
    regions(state, encoder=None)
    assert state.written == {"masks": 1} and state["masks"] == 1
    with pytest.raises(GraphError, match=r"regions reads 'size' without declaring it; add it to @takes_over\(reads="):
        state["size"]
    with pytest.raises(GraphError, match=r"regions writes 'mask' without declaring it; did you mean 'masks'\?"):
        state["mask"] = 1


def test_take_over_writes_all_that_it_declares():
    @takes_over(reads={}, writes={"masks": int, "maybe": int | None})
    def regions(state: State) -> None: ...

    state = State("regions", {}, regions.reads, regions.writes)
    with pytest.raises(GraphError, match=r"regions declares that it writes 'masks', but did not"):
        regions.check(state)
    state["masks"] = None
    with pytest.raises(GraphError, match=r"regions wrote None to 'masks', wanted int"):
        regions.check(state)
    state["masks"], state["maybe"] = 1, None
    regions.check(state)
    assert state.written == {"masks": 1, "maybe": None}
