"""Draws `docs/pictures/guidance.webp`: the same prompts and seeds under each guidance, nothing picked.

    python -m recipes.guidance_sheet docs/pictures/guidance.webp

Prints for each row, on average, how saturated its pictures are (0 to 1), how much their contrast is (standard deviation
of the pixels, of 255 levels), and how far they are from the row without guidance (mean distance, of 255 levels).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from calotype import (
    APG,
    CFGZeroStar,
    ClassifierFree,
    Guidance,
    NoGuidance,
    PerturbedAttention,
    Rescaled,
    SkipLayers,
    TextToImagePipeline,
    Within,
)

PROMPTS = ["a red apple", "a blue car", "a smiling cat", "a green tree", "a yellow star", "a purple heart"]
SEEDS = (0, 1)
SIDE, LABEL = 64, 200


def policies() -> dict[str, Guidance]:
    """The rows, by what stands beside each."""
    found: dict[str, Guidance] = {"none": NoGuidance()}
    for scale in (3.0, 7.0, 15.0):
        plain = ClassifierFree(scale)
        found[f"{scale:g}  classifier-free"] = plain
        found[f"{scale:g}  rescaled by 0.7"] = Rescaled(plain, 0.7)
        found[f"{scale:g}  within 0.2 to 0.8"] = Within(plain, (0.2, 0.8))
        found[f"{scale:g}  CFG-Zero*"] = CFGZeroStar(scale)
        found[f"{scale:g}  APG"] = APG(scale)
    found["2  perturbed attention"] = PerturbedAttention(2.0)
    found["2  skipped layer"] = SkipLayers(2.0)
    return found


def main(target: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    rows, count = policies(), len(PROMPTS) * len(SEEDS)
    sheet = Image.new("RGB", (LABEL + SIDE * count, SIDE * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    plain: list[np.ndarray] = []
    for number, (label, policy) in enumerate(rows.items()):
        made = [pipe(prompt=p, seed=s, guidance=policy).images[0] for p in PROMPTS for s in SEEDS]
        draw.text((6, SIDE * number + 24), label, fill="black", font=font)
        for column, picture in enumerate(made):
            sheet.paste(picture, (LABEL + SIDE * column, SIDE * number))
        pixels = [np.asarray(m, dtype=np.float64) for m in made]
        plain = plain or pixels
        saturation = np.mean([np.asarray(m.convert("HSV"))[..., 1] / 255 for m in made])
        contrast = np.mean([p.std() for p in pixels])
        apart = np.mean([np.abs(p - q).mean() for p, q in zip(pixels, plain, strict=True)])
        sys.stdout.write(f"{label:26} saturation {saturation:.3f}  contrast {contrast:5.1f}  apart {apart:5.1f}\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=80, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
