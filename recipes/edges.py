"""Teaches the embedded model to follow edges: a ControlNet of its own pictures. Draws `docs/pictures/edges.webp`.

    python -m recipes.edges WORK docs/pictures/edges.webp

The pictures are the model's own, with the edges in them. WORK keeps them, the cache, checkpoints and the network; a
run that was stopped goes on. The sheet has four rows: edges of pictures that were not trained on, the same prompt and
seed without the ControlNet and with it, and with it another prompt; nothing picked.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from calotype import QwenImageBlockwiseControlNetModel, TextToImagePipeline
from calotype.atomic import atomic_folder
from calotype.pipelines.text_to_image import control, new_controlnet
from calotype.training import AdamW, FullWeights, LogitNormal, PictureFolder, Rate, Trainer, TrainingResult

CONCEPTS = Path(__file__).parent / "emoji" / "concepts.txt"
HELD_OUT = (
    "an apple", "a cat", "a car", "a house", "a tree", "a fish", "a rocket", "a mushroom", "a key", "an umbrella",
    "a penguin", "a guitar",
)  # fmt: skip
"""Things of which no picture is trained on."""

OTHERS = (
    "a blue apple", "a purple cat", "a green car", "a pink house", "a red tree", "a purple fish", "a blue rocket",
    "a green mushroom", "a red key", "a green umbrella", "a pink penguin", "a blue guitar",
)  # fmt: skip
SEEDS_EACH = 3
STEPS = 600
LABEL, SIDE = 110, 64


def edges(picture: Image.Image) -> Image.Image:
    """White lines on black where colours change."""
    found = picture.convert("RGB").filter(ImageFilter.GaussianBlur(0.6)).filter(ImageFilter.FIND_EDGES)
    red, green, blue = found.split()
    strongest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    lines = strongest.point([0 if level < 48 else 255 for level in range(256)])
    ImageDraw.Draw(lines).rectangle((0, 0, lines.width - 1, lines.height - 1), outline=0)  # the filter draws a frame
    return lines.convert("RGB")


def learned() -> list[str]:
    """What is trained on: every concept of the embedded model but those that are held out."""
    lines = CONCEPTS.read_text(encoding="utf-8").splitlines()
    names = [line.split(" ", 1)[1] for line in lines if line and not line.startswith("# ")]
    left_out = {thing.split(" ", 1)[1] for thing in HELD_OUT}
    return [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names if name not in left_out]


def make_pictures(pipe: TextToImagePipeline, folder: Path, prompts: Sequence[str], seeds: int = SEEDS_EACH) -> None:
    """The data: pictures, their edges, and `metadata.jsonl`. A folder that exists is left alone."""
    if folder.exists():
        return
    with atomic_folder(folder, owns=lambda name: True) as aside:
        lines = []
        for number, prompt in enumerate(prompts):
            for turn in range(seeds):
                name = f"{number:04d}-{turn}"
                picture = pipe(prompt=prompt, seed=1000 * turn + number, steps=12).image
                picture.save(aside / f"{name}.png")
                edges(picture).save(aside / f"{name}-edges.png")
                where = str(folder.absolute() / f"{name}-edges.png")
                lines.append(json.dumps({"file_name": f"{name}.png", "text": prompt, "edges": where}))
        (aside / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(pipe: TextToImagePipeline, pictures: Path, output: Path, steps: int = STEPS) -> TrainingResult:
    """The ControlNet, of the pictures in a folder and their edges."""
    trainer = Trainer(
        pipe.with_units(control(), controlnet=new_controlnet(pipe.transformer)),
        PictureFolder(path=str(pictures), columns={"prompt": "text", "control_image": "edges"}).rows(), output,
        target=FullWeights(component="controlnet", result="component"), objective={"times": LogitNormal(mean=0.5)},
        optimizer=AdamW(rate=2e-3, weight_decay=0.0), rate=Rate(curve="hold", warmup=20),
        steps=steps, batch=16, average=0.99, dropout={"prompt": 0.1}, cache="cache", checkpoint_every=100, keep=2,
    )  # fmt: skip
    return trainer.train(resume=True)


# -- what it learned -----------------------------------------------------------------------------------------------


def agreement(picture: Image.Image, wanted: Image.Image) -> float:
    """How well the edges of a picture are those that were wanted: the F1 of pixels, where one pixel aside counts."""
    found, asked = edges(picture).convert("L"), wanted.convert("L")
    precision, recall = (_covered(a, b) for a, b in ((found, asked), (asked, found)))
    return 2 * precision * recall / max(precision + recall, 1e-9)


def _covered(lines: Image.Image, by: Image.Image) -> float:
    """The share of the lines that lie on, or beside, those of another picture."""
    here: NDArray[np.bool_] = np.asarray(lines) > 127
    near: NDArray[np.bool_] = np.asarray(by.filter(ImageFilter.MaxFilter(3))) > 127
    return float((here & near).sum() / max(here.sum(), 1))


def compare(
    pipe: TextToImagePipeline, network: QwenImageBlockwiseControlNetModel, count: int = len(HELD_OUT)
) -> tuple[Image.Image, list[float]]:
    """The sheet of so many things, and the mean agreement of its last three rows."""
    things, others = HELD_OUT[:count], OTHERS[:count]
    controlled: Any = pipe.with_units(control(), controlnet=network)
    asked = [edges(pipe(prompt=thing, seed=7).image) for thing in things]
    rows = [
        [pipe(prompt=thing, seed=100).image for thing in things],
        [controlled(prompt=t, seed=100, control_image=e).image for t, e in zip(things, asked, strict=True)],
        [controlled(prompt=t, seed=100, control_image=e).image for t, e in zip(others, asked, strict=True)],
    ]
    means = [float(np.mean([agreement(p, e) for p, e in zip(row, asked, strict=True)])) for row in rows]
    drawn = Image.new("RGB", (LABEL + SIDE * len(asked), SIDE * 4), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(15)
    labels = ("edges", "without", "with", "another colour")
    for number, (label, row) in enumerate(zip(labels, [asked, *rows], strict=True)):
        draw.text((6, SIDE * number + 24), label, fill="black", font=font)
        for column, picture in enumerate(row):
            drawn.paste(picture, (LABEL + SIDE * column, SIDE * number))
    return drawn, means


def main(work: Path, target: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    make_pictures(pipe, work / "pictures", learned())
    result = train(pipe, work / "pictures", work / "run")
    picture, means = compare(pipe, QwenImageBlockwiseControlNetModel.from_pretrained(result.files[0]))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=80, method=6)
    print(f"{result.steps} steps, loss {result.loss}: {result.files[0]}")
    print("edges as asked for: " + ", ".join(f"{mean:.3f}" for mean in means) + " (without, with, another colour)")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
