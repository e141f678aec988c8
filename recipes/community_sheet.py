"""Draws the pictures of `docs/community.md` and `docs/sharing.md`: what packs and pipelines do to the embedded model.

    python -m recipes.community_sheet docs/pictures

Each sheet is rows of pictures at twice their size, with what differs written above each.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from calotype import DiffusionPipeline

MODEL = "calotype/emoji-64"
SIDE, LABEL, GAP = 128, 18, 6

Row = list[tuple[str, Image.Image]]


@cache
def pipeline(pack: str | None = None) -> Any:
    """The embedded model, with a shipped pack or as a shipped pipeline."""
    if pack == "morph":
        return DiffusionPipeline.from_pretrained(MODEL, custom_pipeline=pack)
    plain = DiffusionPipeline.from_pretrained(MODEL)
    place = {"after": "prompt_embeds"} if pack == "emphasis" else {}
    return plain if pack is None else plain.with_units(pack, **place)


def draw(pack: str | None, **call: Any) -> Image.Image:
    """One picture."""
    picture: Image.Image = pipeline(pack)(**call).image
    return picture


def framed(grey: Image.Image) -> Image.Image:
    """A mask with a thin frame, so that its white is seen on white."""
    shown = grey.convert("RGB")
    ImageDraw.Draw(shown).rectangle((0, 0, shown.width - 1, shown.height - 1), outline="grey")
    return shown


def composable() -> Iterator[Row]:
    """Pairs of prompts, with weights."""
    for prompt, seed, series in (
        ("a heart", 1, ("a blue heart:0.5", "a blue heart", "red:-0.5", "a star")),
        ("a dog", 0, ("a bear:0.5", "a bear", "a panda", "a lion")),
        ("a red apple", 1, ("a heart", "a tomato", "a pear", "a tomato:-0.7")),
    ):
        yield [(prompt, draw("composable", prompt=prompt, seed=seed))] + [
            (f"AND {also}", draw("composable", prompt=prompt, also=also, seed=seed)) for also in series
        ]


def masks() -> Iterator[Row]:
    """A mask with harder and softer edges, and strengths pixel by pixel."""
    apple = draw(None, prompt="a red apple", seed=7)
    right = Image.new("L", apple.size)
    right.paste(255, (32, 0, 64, 64))
    call = {"prompt": "a green apple", "image": apple, "mask": right, "strength": 1.0, "seed": 1}
    yield [("the picture", apple), ("mask", framed(right))] + [
        (f"mask_blur={blur:g}", draw("soft_mask", **call, mask_blur=blur)) for blur in (0.0, 3.0, 8.0)
    ]
    slope = Image.linear_gradient("L").resize(apple.size).rotate(90)
    call = {"prompt": "a yellow star", "image": apple, "change_map": slope, "strength": 1.0}
    yield [("the picture", apple), ("change_map", framed(slope))] + [
        (f"seed={seed}", draw("differential", **call, seed=seed)) for seed in range(3)
    ]


def edict() -> Iterator[Row]:
    """Edits by prompt, beside noise of the same strength."""
    for source, prompt, seed in (
        ("a dog", "a wolf", 1), ("a lion", "a tiger", 1), ("a smiling face", "a crying face", 1),
        ("a red car", "a blue car", 2),
    ):  # fmt: skip
        picture = draw(None, prompt=source, seed=seed)
        call = {"image": picture, "strength": 0.8, "seed": 0}
        yield [
            (source, picture),
            ("the same prompt", draw("edict", **call, prompt=source, source_prompt=source)),
            (prompt, draw("edict", **call, prompt=prompt, source_prompt=source)),
            ("without: seed=0", draw(None, **call, prompt=prompt)),
            ("without: seed=1", draw(None, **call | {"seed": 1}, prompt=prompt)),
        ]


def words() -> Iterator[Row]:
    """More and less of a word, and what lies between two prompts."""
    for prompt, word, seed in (("a fox on a blue background", "blue", 3), ("a purple cat", "purple", 3)):
        yield [
            (f"{word}:{weight:g}", draw("emphasis", prompt=prompt, emphasis=f"{word}:{weight}", seed=seed))
            for weight in (0.0, 0.5, 1.0, 1.5, 2.0)
        ]
    for prompt, other, seed in (("a dog", "a panda", 0), ("a red heart", "a blue heart", 1), ("a sun", "a moon", 4)):
        yield [
            (f"mix={mix:g}", draw("morph", prompt=prompt, other_prompt=other, mix=mix, seed=seed))
            for mix in (0.0, 0.3, 0.5, 0.7, 1.0)
        ]


LEFT, RIGHT, TOP, BOTTOM = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)


def regions() -> Iterator[Row]:
    """Prompts for halves of a picture."""
    for prompt, one, other, (first, second) in (
        ("a heart", "a red heart", "a blue heart", (LEFT, RIGHT)),
        ("an apple", "a red apple", "a green apple", (LEFT, RIGHT)),
        ("a cat", "a purple cat", "a yellow cat", (TOP, BOTTOM)),
    ):
        halves = {one: first, other: second}
        yield [(prompt, draw(None, prompt=prompt, seed=0))] + [
            (f"in halves: seed={seed}", draw("regional_prompts", prompt=prompt, regions=halves, seed=seed))
            for seed in range(4)
        ]


def shared() -> Iterator[Row]:
    """The two that `docs/sharing.md` shows: a word by weight, and a series between prompts."""
    fox, weights = "a fox on a blue background", (0.0, 0.25, 0.5, 1.0, 2.0)
    yield [(f"blue:{w:g}", draw("emphasis", prompt=fox, emphasis=f"blue:{w}", seed=3)) for w in weights]
    yield [
        (f"mix={mix:g}", draw("morph", prompt="a cat", other_prompt="a fox", mix=mix, seed=7))
        for mix in (0.0, 0.35, 0.5, 0.65, 1.0)
    ]


SHEETS: dict[str, Callable[[], Iterator[Row]]] = {
    "composable": composable, "masks": masks, "edict": edict, "words": words, "regions": regions, "community": shared,
}  # fmt: skip


def sheet(rows: Sequence[Row]) -> Image.Image:
    """Rows of pictures, each with its label above it."""
    width = max(map(len, rows)) * (SIDE + GAP)
    whole = Image.new("RGB", (width, len(rows) * (SIDE + LABEL + GAP)), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for down, row in enumerate(rows):
        for across, (label, picture) in enumerate(row):
            x, y = across * (SIDE + GAP), down * (SIDE + LABEL + GAP)
            pen.text((x + 4, y + 2), label, fill="black", font=font)
            whole.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y + LABEL))
    return whole


def main(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or SHEETS:
        path = folder / f"{name}.webp"
        sheet(list(SHEETS[name]())).save(path, quality=80, method=6)
        sys.stdout.write(f"{path}: {path.stat().st_size // 1024} kB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
