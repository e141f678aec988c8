"""Draws `docs/pictures/attention.webp`: the packs that look into attention, with and without, nothing picked.

    python -m recipes.attention_sheet docs/pictures/attention.webp

Prints how far the outlines of edited pictures are from the source's, how far the colours of aligned pictures are from
the reference's (mean distance, of 255 levels), and how much bluer the blue halves are than the red ones.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from calotype import TextToImagePipeline

EDITS = [("a red car", "a blue car"), ("a cat", "a fox"), ("a smiling cat", "a crying cat"),
         ("a cat on a blue background", "a fox on a blue background")]  # fmt: skip
STYLES = [["a pink cat", "a fox", "a tree", "a car"], ["a green heart", "a star", "an apple", "a house"]]
HALVES = [("heart", (0, 0, 0.5, 1), (0.5, 0, 1, 1)), ("heart", (0, 0, 1, 0.5), (0, 0.5, 1, 1)),
          ("cat", (0, 0, 1, 0.5), (0, 0.5, 1, 1)), ("car", (0, 0, 0.5, 1), (0.5, 0, 1, 1))]  # fmt: skip
SEEDS = (0, 1)
SIDE, LABEL = 64, 190
Rows = dict[str, list[Image.Image]]


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=np.float64)


def outlines(picture: Image.Image) -> np.ndarray:
    return np.asarray(np.hypot(*np.gradient(pixels(picture).mean(axis=2))))


def colour(picture: Image.Image) -> np.ndarray:
    """The mean colour of what is not white."""
    found = pixels(picture)
    return np.asarray(found[found.min(axis=2) < 200].mean(axis=0))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def edits(plain: Any) -> Rows:
    """Sources, the other prompts with the same seeds, and the same with the sources' attention."""
    pipe = plain.with_units("prompt_to_prompt")
    rows: Rows = {"source": [], "other prompt": [], "prompt-to-prompt": []}
    for source, prompt in EDITS:
        for seed in SEEDS:
            call = {"prompt": [source, prompt], "seed": seed}
            before, after = plain(**call).images, pipe(**call, source=source).images
            for row, picture in zip(rows.values(), (*before, after[1]), strict=True):
                row.append(picture)
    first, *others = ([outlines(p) for p in row] for row in rows.values())
    for name, found in zip(("other prompt", "prompt-to-prompt"), others, strict=True):
        apart = np.mean([distance(a, b) for a, b in zip(found, first, strict=True)])
        sys.stdout.write(f"{name:18} outlines apart from the source's {apart:5.2f}\n")
    return rows


def styles(plain: Any) -> Rows:
    """Pictures of prompts, and the same that look at the first of each four, more and more."""
    pipe = plain.with_units("style_aligned")
    rows: Rows = {}
    for scale in (0.0, 0.1, 0.3, 1.0):
        name = f"style, scale {scale:g}" if scale else "no style"
        given = [{"style": group[0], "style_scale": scale} if scale else {} for group in STYLES]
        groups = [pipe(prompt=group, seed=7, **more).images for group, more in zip(STYLES, given, strict=True)]
        rows[name] = [picture for group in groups for picture in group]
        apart = np.mean([distance(colour(p), colour(group[0])) for group in groups for p in group[1:]])
        sys.stdout.write(f"{name:18} colours apart from the reference's {apart:5.1f}\n")
    return rows


def halves(plain: Any) -> Rows:
    """Pictures of prompts, and the same with a red and a blue half."""
    pipe = plain.with_units("regional_prompts")
    rows: Rows = {"prompt": [], "red and blue half": []}
    for thing, first, second in HALVES:
        for seed in SEEDS:
            call = {"prompt": f"a {thing}", "seed": seed}
            rows["prompt"].append(plain(**call).image)
            regions = {f"a red {thing}": first, f"a blue {thing}": second}
            rows["red and blue half"].append(pipe(**call, regions=regions).image)
    for name, row in rows.items():
        each = [
            bluer(picture, second)
            for picture, (_, _, second) in zip(row, [half for half in HALVES for _ in SEEDS], strict=True)
        ]
        sys.stdout.write(f"{name:18} blue halves bluer by {', '.join(f'{v:.0f}' for v in each)}\n")
    return rows


def bluer(picture: Image.Image, box: tuple[float, float, float, float]) -> float:
    """How much bluer (blue less red) the picture is in a box than elsewhere."""
    found, inside = pixels(picture), np.zeros((SIDE, SIDE), dtype=bool)
    left, top, right, bottom = (round(SIDE * share) for share in box)
    inside[top:bottom, left:right] = True
    blue = found[..., 2] - found[..., 0]
    return float(blue[inside].mean() - blue[~inside].mean())


def main(target: Path) -> None:
    plain = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    rows = {**edits(plain), **styles(plain), **halves(plain)}
    count = max(map(len, rows.values()))
    sheet = Image.new("RGB", (LABEL + SIDE * count, SIDE * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (label, row) in enumerate(rows.items()):
        draw.text((6, SIDE * number + 24), label, fill="black", font=font)
        for column, picture in enumerate(row):
            sheet.paste(picture, (LABEL + SIDE * column, SIDE * number))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=80, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
