"""Computed values that a caller gives in place of what units would make: reading and checking them."""

from collections.abc import Sequence
from typing import Any, Literal, NewType, get_args, get_origin

from calotype.errors import InputError, UnknownInput, did_you_mean, sentences
from calotype.graph.branches import Branch, Branches
from calotype.graph.graph import Graph
from calotype.graph.hints import accepts_none, bare, branches_of, members, spell
from calotype.graph.inputs import Call
from calotype.graph.node import project


def check_names(graph: Graph, call: Call) -> None:
    """Raise `UnknownInput` for a given name that no unit writes."""
    made = {w for node in graph.nodes for w in node.writes}
    for name in call.given:
        if name in graph.inputs:
            raise UnknownInput(f"given: {name!r} is an input; pass it as {name}=...")
        if name not in made:
            raise UnknownInput(
                sentences(
                    f"given: {graph.owner} makes no {name!r}{did_you_mean(name, made)}",
                    f"It makes {', '.join(sorted(made))}",
                )
            )


def rows_of(graph: Graph, name: str, value: Any) -> list[Any] | None:
    """The items of a given list; None for one value that stands for every item.

    A wire whose values are lists themselves takes a list of lists.
    """
    if not isinstance(value, list):
        return None
    hint = branches_of(graph.wires[name]) or graph.wires[name]
    of_lists = any(m is list or get_origin(m) is list for m in members(hint))
    if of_lists and not all(isinstance(row, list | Branches) for row in value):
        return None
    return value


def given_prompts(graph: Graph, call: Call) -> dict[str, int]:
    """For each given list, how many prompts it stands for, in a call where no input is a list. A value that depends on
    the seed has an item for each image. Raises `InputError` where that does not come out even."""
    counts = {}
    for name, value in call.given.items():
        rows = rows_of(graph, name, value)
        if rows is not None:
            images = call.num_images if name in _seeded(graph) else 1
            if len(rows) % images:
                raise InputError(
                    f"given: {name!r} is a list of {len(rows)}, but this call makes {images} images a prompt"
                )
            counts[name] = len(rows) // images
    return counts


def check_given(graph: Graph, call: Call, branches: Sequence[Branch], prompts: int) -> None:
    """Raise `InputError` for a given value of the wrong type, shape, length or branches."""
    images = call.num_images
    batched = {wire for node in graph.nodes if node.is_loop for wire in node.reads}
    for name, value in call.given.items():
        rows = rows_of(graph, name, value)
        if rows is not None and len(rows) not in (prompts, prompts * images):
            raise InputError(
                f"given: {name!r} is a list of {len(rows)}, but this call makes {prompts} prompt(s) x {images} "
                "image(s); give one value for all, one for each prompt, or one for each image"
            )
        for row in [value] if rows is None else rows:
            _check_branches(graph, name, row, branches)
            for part in (v for _, v in row.items()) if isinstance(row, Branches) else (row,):
                _check_type(graph, name, part)
                if name in batched:
                    _check_item(name, part)


def _check_branches(graph: Graph, name: str, row: Any, branches: Sequence[Branch]) -> None:
    lift = graph.lifts.get(name, frozenset())
    wanted = ", ".join(b.name for b in branches)
    if isinstance(row, Branches):
        if not lift:
            raise InputError(f"given: {name!r} is the same on every guidance branch; give the value itself")
        if set(row) != {b.name for b in branches}:
            raise InputError(f"given: {name!r} has the branches {', '.join(row)}, but this call needs {wanted}")
    elif len({project(lift, b) for b in branches}) > 1:
        form = ", ".join(f"{b.name}=..." for b in branches)
        raise InputError(f"given: {name!r} differs between the guidance branches {wanted}; give Branches({form})")


def _check_type(graph: Graph, name: str, part: Any) -> None:
    whole = graph.wires[name]
    hint = branches_of(whole) or whole
    if part is None:
        if not accepts_none(whole):
            raise InputError(f"given: {name!r} must be {spell(hint)}, got None")
    elif not _is_instance(part, hint):
        raise InputError(f"given: {name!r} must be {spell(hint)}, got {_described(part)}")


def _check_item(name: str, part: Any) -> None:
    """Raise `InputError` for an array that is not one item of the batch that a loop makes of them."""
    shape = tuple(getattr(part, "shape", ()))
    if shape and shape[0] != 1:
        raise InputError(
            f"given: {name!r} must be one item, an array of shape (1, ...), got {_described(part)}; give an item of a "
            f"batch as value[:1], one without the first dimension as value[None], and several as a list of items"
        )


def _is_instance(value: Any, hint: Any) -> bool:
    return any(_is_one(value, member) for member in members(bare(hint)))


def _is_one(value: Any, hint: Any) -> bool:
    if isinstance(hint, NewType):
        return _is_instance(value, hint.__supertype__)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    wanted = get_origin(hint) or hint
    if wanted is float and isinstance(value, int):
        return True
    if not isinstance(wanted, type) or getattr(wanted, "_is_protocol", False):
        return True  # Any, or a protocol: there is nothing to compare
    return isinstance(value, wanted)


def _described(value: Any) -> str:
    name = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{name} of shape {tuple(value.shape)} and type {value.dtype}"
    return name


def _seeded(graph: Graph) -> frozenset[str]:
    """The wires whose value depends on the seed."""
    found = {"seed"}
    for node in graph.nodes:
        if not found.isdisjoint(node.reads):
            found |= set(node.writes)
    return frozenset(found)
