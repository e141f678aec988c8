"""The data of the four stages: composed emoji with captions, in regions, before and after a change, with edges."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calotype.atomic import atomic_folder
from calotype.training import Row
from recipes.edges import edges
from recipes.emoji.captions import Composer, Scene
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import PRESETS

SIDE = 64
PLACES = {"beside": ((0, 0, 32, 64), (32, 0, 64, 64)), "above": ((0, 0, 64, 32), (0, 32, 64, 64))}
"""Where the two things of a layout are: left, top, right and bottom."""

GROUNDS = ("red", "green", "blue", "yellow", "black", "pink")
OF_TWO = "a picture"
"""The prompt of a picture of two things, which only their regions name."""

Draw = Callable[[Composer, np.random.Generator, Path, str], dict[str, Any]]
"""From a random generator to the pictures of one row, saved in a folder under a name, and what JSON has of the row."""


def make(folder: Path, draw: Draw, count: int, seed: int = 0) -> None:
    """Write so many rows of pictures into a folder; one that exists is left alone."""
    if folder.exists():
        return
    composer, rng = Composer(*load_pictures(PRESETS["cpu"].folder)), np.random.default_rng(seed)
    with atomic_folder(folder, owns=lambda name: True) as aside:
        lines = [json.dumps(draw(composer, rng, aside, f"{number:06d}")) for number in range(count)]
        (aside / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(folder: Path) -> list[Row]:
    """The rows of a folder, with pictures as paths and regions as masks."""
    found = []
    for number, line in enumerate((folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()):
        inputs: dict[str, Any] = json.loads(line)
        for name in ("image", "reference", "control_image"):
            if name in inputs:
                inputs[name] = folder / inputs[name]
        layout = inputs.pop("layout", None)
        if layout is not None:
            inputs |= {"region_prompts": tuple(inputs["region_prompts"]), "region_masks": region_masks(layout)}
        found.append(Row(f"{folder.name} {number}", inputs))
    return found


def region_masks(layout: str) -> tuple[Image.Image, ...]:
    """White where each of two things is."""
    masks = []
    for place in PLACES[layout]:
        mask = Image.new("L", (SIDE, SIDE), 0)
        mask.paste(255, place)
        masks.append(mask)
    return tuple(masks)


def save(pixels: np.ndarray, folder: Path, name: str) -> str:
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return f"{name}.png"


def drawn(composer: Composer, rng: np.random.Generator, folder: Path, name: str) -> dict[str, Any]:
    """A scene and its caption."""
    scene = composer.scene(rng)
    return {"prompt": composer.caption(scene, rng), "image": save(composer.draw(scene, rng), folder, name)}


def of_two(composer: Composer, rng: np.random.Generator, folder: Path, name: str) -> dict[str, Any]:
    """Two things that the prompt does not name: each region names its own."""
    everything = range(len(composer.concepts))
    first = composer.thing(rng, everything)
    layout = "beside" if rng.random() < 0.5 else "above"
    scene = Scene((first, composer.thing(rng, everything, style=first.style)), layout=layout)
    named = [composer.caption(Scene((thing,)), rng) for thing in scene.things]
    picture = save(composer.draw(scene, rng), folder, name)
    return {"prompt": OF_TWO, "image": picture, "region_prompts": named, "layout": layout}


def changed(composer: Composer, rng: np.random.Generator, folder: Path, name: str) -> dict[str, Any]:
    """A thing before and after: in another colour, on another background, or in black and white. Only the change is
    named, so that what stays must be seen."""
    thing = composer.thing(rng, range(len(composer.concepts)), recolour=0.0)
    before, kind = Scene((replace(thing, colour=None),)), rng.random()
    if kind < 0.5:
        other = composer.thing(rng, [thing.concept], style=thing.style, recolour=1.0)
        after, prompt = Scene((other,)), other.colour or "black and white"
    elif kind < 0.9:
        ground = str(rng.choice(GROUNDS))
        after, prompt = replace(before, background=ground), f"on a {ground} background"
    else:
        after, prompt = replace(before, grey=True), "black and white"
    return {
        "prompt": prompt,
        "reference": save(composer.draw(before), folder, f"{name}-before"),
        "image": save(composer.draw(after), folder, name),
    }


def outlined(composer: Composer, rng: np.random.Generator, folder: Path, name: str) -> dict[str, Any]:
    """A scene, its caption and its edges."""
    row = drawn(composer, rng, folder, name)
    lines = edges(Image.open(folder / row["image"]))
    lines.save(folder / f"{name}-edges.png")
    return {**row, "control_image": f"{name}-edges.png"}
