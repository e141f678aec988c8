"""Contact sheets of the exported model: fixed prompts, fixed seeds, every picture shown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.emoji.render import load_pictures
from recipes.emoji.sample import Sampler
from recipes.emoji.settings import HERE, STYLES, Preset

PICTURES = HERE.parents[1] / "docs" / "pictures"

PROMPTS = (
    "a red apple", "a blue apple", "a green apple", "a purple cat", "a dog", "a panda", "a rocket", "a castle",
    "a heart", "a pink heart", "a green heart", "a fish on a blue background", "a star", "a small crown", "a red car",
    "a blue truck", "a duck", "a purple duck", "a smiling face", "a pink octopus", "an umbrella", "a purple umbrella",
    "a snowman", "a fire on a purple background", "a ghost", "a robot", "a blue butterfly", "a butterfly", "a cactus",
    "a guitar", "a strawberry", "a dog in blob style", "a fox", "a purple fox", "a pink frog", "a tree",
    "an apple beside a banana", "a cat next to a dog", "a sun above a house", "a black and white tiger",
)  # fmt: skip
"""The 32 prompts of the feasibility study, and eight more. Prompt k has seed k."""

STYLE_CONCEPTS = ("dog", "apple", "rocket", "castle", "octopus", "smiling face", "car", "ghost", "crown", "guitar")


def grid(pictures: NDArray[np.uint8], columns: int, scale: int = 2) -> Image.Image:
    """Pictures row by row, enlarged without smoothing."""
    rows = [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, len(pictures), columns)]
    image = Image.fromarray(np.concatenate(rows, 0))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save(name: str, image: Image.Image) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.webp"
    image.save(path, quality=90, method=6)
    print(f"wrote {path.name}: {path.stat().st_size / 1e3:.0f} kB")


def prompts_sheet(sampler: Sampler) -> Image.Image:
    return grid(sampler(PROMPTS, range(len(PROMPTS))), columns=8)


def styles_sheet(sampler: Sampler) -> Image.Image:
    """A row for every style, a column for every concept; all of a column from one seed."""
    prompts = [f"{concept} in {style} style" for style in STYLES for concept in STYLE_CONCEPTS]
    return grid(sampler(prompts, [n % len(STYLE_CONCEPTS) for n in range(len(prompts))]), len(STYLE_CONCEPTS))


def concepts_sheet(sampler: Sampler, names: Sequence[str]) -> Image.Image:
    """Every concept once, seed 0 for all, at its own size."""
    pictures = sampler([f"a {name}" for name in names], [0] * len(names))
    columns = 21
    missing = -len(pictures) % columns
    blank = np.full((missing, *pictures.shape[1:]), 255, np.uint8)
    return grid(np.concatenate([pictures, blank]), columns, scale=1)


def main(preset: Preset, folder: Path | None = None) -> None:
    sampler = Sampler.from_folder(folder or preset.shipped)
    concepts, _ = load_pictures(preset.folder)
    prefix = f"emoji-{preset.size}"
    save(f"{prefix}-prompts", prompts_sheet(sampler))
    save(f"{prefix}-styles", styles_sheet(sampler))
    save(f"{prefix}-concepts", concepts_sheet(sampler, [concept.name for concept in concepts]))
