"""Packs that steer the second loop at a larger size, as they steer the first."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from calotype.errors import GraphError
from calotype.graph.unit import Unit
from calotype.pipelines.packs import UnitPack

_LARGER = {
    name: f"hires_{name}"
    for name in ("height", "width", "time_ids", "sigmas", "noise", "image_latents", "mask_latents", "mask_pixels")
} | {"beside_latents": "hires_beside"}
"""What the first loop's wires that depend on the size are called in the second."""


def in_second_loop(pack: UnitPack) -> UnitPack:
    """A pack whose inputs steer the second loop too, with what depends on the size made again at the larger one.

    pipe = pipe.with_units(HIGH_RESOLUTION, after="denoise").with_units(control(), controlnet=net)
    pipe = pipe.with_units(in_second_loop(control()), before="hires")

    The pack itself is inserted first, for the first loop: its inputs and components are those of both. A window, such
    as `control_start`, is a share of each loop.

    Raises:
        GraphError: the pack has a loop of its own, or refines a value, which would be refined twice.
    """
    names, units = dict(_LARGER), []
    for node in pack.units:
        if not isinstance(node, Unit):
            raise GraphError(f"in_second_loop: {node!r} is no unit, so that it cannot be made again at another size")
        if refined := node.reads.keys() & node.writes.keys():
            raise GraphError(f"in_second_loop: {node.name} refines {sorted(refined)[0]!r}, which both loops read")
        if names.keys().isdisjoint(node.reads):
            continue  # what it makes is the same at any size
        names |= {wire: f"hires_{wire}" for wire in node.writes}
        units.append(_on(node, names).named(f"hires_{node.name}"))
    return replace(
        pack,
        units=tuple(units),
        Inputs=None,
        steer=tuple(_on(one, names) for one in pack.steer),
        after_step=tuple(_on(one, names) for one in pack.after_step),
        objectives=tuple(_on(one, names) for one in pack.objectives),
        once=tuple(_on(one, names) for one in pack.once),
    )


def _on(one: Unit[..., Any], names: Mapping[str, str]) -> Unit[..., Any]:
    """A unit on the wires of the second loop."""
    own = (*one.parameters, *one.returns)
    moved = {name: names[one.wire(name)] for name in own if one.wire(name) in names}
    return one.renamed(**moved).named(one.name)
