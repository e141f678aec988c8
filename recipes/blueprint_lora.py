"""Teaches the embedded model one style from 20 pictures: white lines on blue paper. Draws `docs/pictures/lora.webp`.

    python -m recipes.blueprint_lora WORK docs/pictures/lora.webp

The pictures are the model's own, turned into drawings: a line where bright meets dark. WORK keeps them, the
cache, checkpoints and the adapter; a run that was stopped goes on. Of the sheet, the upper row is the model without the
adapter and the lower with it: the same prompts and seeds, of things that none of the 20 pictures shows, nothing picked.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from calotype import TextToImagePipeline
from calotype.training import AdamW, LowRankChange, PictureFolder, Rate, Trainer, TrainingResult, Validation

LEARNED = (
    "an apple", "a banana", "a car", "a bus", "a dog", "a rabbit", "a fish", "an owl", "a tree", "a cactus", "a house",
    "a castle", "a key", "a bell", "an umbrella", "a guitar", "a star", "a crown", "a balloon", "a mushroom",
)  # fmt: skip
SHOWN = ("a cat", "a pear", "a train", "a ghost", "a rocket", "a frog", "a trophy", "a heart")
PAPER, INK = (28, 62, 128), (236, 243, 255)
LAYERS = r"(to_qkv|text_kv|to_out|gate_up|down)"
LABEL, SIDE = 70, 64


def blueprint(picture: Image.Image) -> Image.Image:
    """The edges of a picture as lines on blue paper."""
    large = ImageOps.grayscale(picture).resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)
    edges = large.filter(ImageFilter.GaussianBlur(3)).filter(ImageFilter.FIND_EDGES)
    edges = ImageOps.expand(ImageOps.crop(edges, 4), 4, fill=0)  # the filter draws the frame too
    strong = ImageOps.autocontrast(edges.filter(ImageFilter.GaussianBlur(2)), cutoff=(0, 2))
    return ImageOps.colorize(strong.resize((SIDE, SIDE), Image.Resampling.LANCZOS), PAPER, INK)


def make_pictures(pipe: TextToImagePipeline, folder: Path, things: Sequence[str] = LEARNED) -> None:
    """The data: a folder of pictures with `metadata.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed, thing in enumerate(things):
        blueprint(pipe(prompt=thing, seed=seed).image).save(folder / f"{seed}.png")
        lines.append(json.dumps({"file_name": f"{seed}.png", "text": thing}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(pipe: TextToImagePipeline, pictures: Path, output: Path, steps: int = 300) -> TrainingResult:
    """The adapter, of the pictures in a folder."""
    trainer = Trainer(
        pipe, PictureFolder(path=str(pictures)).rows(), output,
        target=LowRankChange(component="transformer", rank=16, layers=LAYERS),
        optimizer=AdamW(rate=2e-3, weight_decay=0.0), rate=Rate(curve="cosine", warmup=10),
        steps=steps, batch=10, average=0.98, dropout={"prompt": 0.1}, cache="cache", checkpoint_every=100,
        validation=Validation(every=100, calls=({"prompt": SHOWN[0]},)),
    )  # fmt: skip
    return trainer.train(resume=True)


def sheet(pipe: TextToImagePipeline, adapter: Path, things: Sequence[str] = SHOWN) -> Image.Image:
    """Two rows of the same prompts and seeds: without the adapter, and with it."""
    rows = [[pipe(prompt=thing, seed=100).image for thing in things]]
    pipe.load_adapter(adapter)
    rows.append([pipe(prompt=thing, seed=100).image for thing in things])
    drawn = Image.new("RGB", (LABEL + SIDE * len(things), SIDE * 2), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(15)
    for number, (label, row) in enumerate(zip(("without", "with"), rows, strict=True)):
        draw.text((6, SIDE * number + 24), label, fill="black", font=font)
        for column, picture in enumerate(row):
            drawn.paste(picture, (LABEL + SIDE * column, SIDE * number))
    return drawn


def main(work: Path, target: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    make_pictures(pipe, work / "pictures")
    result = train(pipe, work / "pictures", work / "run")
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet(pipe, result.files[0]).save(target, quality=85, method=6)
    print(f"{result.steps} steps, loss {result.loss}: {result.files[0]}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
