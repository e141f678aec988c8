"""Draws `docs/pictures/caches.webp`: prompts with every step computed, and with three step caches, nothing picked.

    python -m recipes.cache_sheet docs/pictures/caches.webp

Prints for each cache how many steps of 24 it took over, and how far its pictures are from those with every step
computed: the mean over all pixels, in levels of 255, of all pictures and of the worst.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calotype import FirstBlockCache, MagCache, TaylorCache, TeaCache, TextToImagePipeline

PROMPTS = ("a red apple", "a blue car", "a house", "a cat")
SIDE = 64


def caches(pipe: Any) -> dict[str, Any]:
    """The caches of the table, as they are written there."""
    ratios = MagCache.measured(pipe, {"prompt": "a green frog", "seed": 1, "steps": 24}, threshold=0.1).ratios
    found: dict[str, Any] = {f"FirstBlockCache({most})": FirstBlockCache(most) for most in (0.1, 0.2, 0.3)}
    found |= {f"TeaCache({most})": TeaCache(most) for most in (0.05, 0.1, 0.3)}
    found |= {f"MagCache(ratios, {most})": MagCache(ratios, most) for most in (0.03, 0.05, 0.1)}
    found |= {f"TaylorCache({every})": TaylorCache(every) for every in (2, 3)}
    found |= {f'TaylorCache({every}, of="prediction")': TaylorCache(every, of="prediction") for every in (2, 4)}
    return found


SHOWN = ("FirstBlockCache(0.2)", "TeaCache(0.3)", 'TaylorCache(4, of="prediction")')
"""The rows of the sheet below that of every step computed."""


def drawn(pipe: Any, prompt: str, cache: Any) -> tuple[Image.Image, int]:
    """The picture, and how many steps were taken over."""
    with pipe.stream(prompt=prompt, seed=1, steps=24, cache=cache) as stream:
        taken = sum(step.reused for step in stream)
        return stream.result.image, taken


def main(target: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    plain = [drawn(pipe, prompt, None)[0] for prompt in PROMPTS]
    rows = [plain]
    for label, cache in caches(pipe).items():
        made = [drawn(pipe, prompt, cache) for prompt in PROMPTS]
        if label in SHOWN:
            rows.append([picture for picture, _ in made])
        apart = [
            np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean()
            for (one, _), other in zip(made, plain, strict=True)
        ]
        taken = np.mean([count for _, count in made])
        sys.stdout.write(f"| `{label}` | {taken:.1f} | {np.mean(apart):.2f} | {max(apart):.2f} |\n")
    sheet = Image.new("RGB", (2 * SIDE * len(PROMPTS), 2 * SIDE * len(rows)), "white")
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(picture.resize((2 * SIDE, 2 * SIDE)), (2 * SIDE * column, 2 * SIDE * number))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=85, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
