"""Draws faces of 32 pixels from nothing but noise: the unconditional model that ships as `calotype/faces-32`.

    python -m recipes.emoji fetch                     # the picture sets
    python -m recipes.faces pictures WORK             # their faces, and each mirrored
    python -m recipes.faces train WORK [STEPS]        # goes on where it was stopped; fewer steps end it earlier
    python -m recipes.faces export WORK src/calotype/assets/faces-32
    python -m recipes.faces sheet WORK docs/pictures

WORK keeps pictures, checkpoints and the log. `export` and `sheet` take the newest checkpoint. The method is that of Ho
et al., "Denoising Diffusion Probabilistic Models" (2020), with the cosine schedule of Nichol and Dhariwal (2021) and
the velocity of Salimans and Ho (2022) for what is predicted.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from calotype import DDPMPipeline, DDPMScheduler, UNet2DModel
from calotype.atomic import atomic_folder
from calotype.training import (
    PICTURES,
    FullWeights,
    Muon,
    PictureFolder,
    Rate,
    Row,
    Trainer,
    TrainingResult,
    Validation,
)
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from recipes.emoji.fetch import package_folder
from recipes.emoji.render import PictureSets, plain
from recipes.emoji.settings import STYLES

SIDE = 32
LEFT_OUT = ("face-costume", "face-hand")
"""Groups of faces that are ghosts, robots and hands."""

STEPS = 4_800
"""As the model that ships was trained; the last half of them with a rate that goes down."""

DRAWN = 50
"""Steps in which the sheets are drawn."""

NOTICE = """\
The weights in this folder were trained on pictures that others made and share: their faces, drawn at 32 pixels, and
mirrored. No picture is included.

Noto Emoji
    Copyright Google Inc. (https://github.com/googlefonts/noto-emoji)
    Licensed under the Apache License, Version 2.0
    From the npm packages @iconify-json/noto 1.2.9 and @iconify-json/noto-v1 1.2.5

Fluent Emoji
    Copyright (c) Microsoft Corporation (https://github.com/microsoft/fluentui-emoji)
    Licensed under the MIT License
    From the npm packages @lobehub/fluent-emoji-3d 1.1.0 (packed by LobeHub, MIT License) and
    @iconify-json/fluent-emoji-flat 1.2.6

Twemoji
    Copyright Twitter, Inc and other contributors (https://github.com/jdecked/twemoji)
    Graphics licensed under the Creative Commons Attribution 4.0 International License (CC BY 4.0):
    https://creativecommons.org/licenses/by/4.0/
    The graphics were changed as said above.
    From the npm package @iconify-json/twemoji 1.2.5

The groups of emoji are those of emojibase, Copyright (c) 2017-2019 Miles Johnson, MIT License, from the npm package
emojibase-data 17.0.0. The weights themselves are licensed under the Apache License, Version 2.0, like the rest of
calotype.
"""


def network() -> UNet2DModel:
    """The network before training, the same every time, laid out as convolutions on a CPU are fastest."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIDE, block_out_channels=(16, 32, 64, 128), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=32, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return unet


def scheduler() -> DDPMScheduler:
    """The noise that it learns to remove."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing")


def faces() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """A name and RGBA uint8 [32, 32, 4] of every face of every set."""
    data = package_folder("emojibase-data")
    subgroups = json.loads((data / "meta" / "groups.json").read_text())["subgroups"]
    sets = PictureSets()
    for entry in json.loads((data / "en" / "data.json").read_text()):
        subgroup = subgroups.get(str(entry.get("subgroup")), "")
        if not subgroup.startswith("face-") or subgroup in LEFT_OUT:
            continue
        code = plain(entry["hexcode"])
        for style in STYLES:
            drawn = sets.draw(style, code, SIDE)
            if drawn is not None:
                yield f"{code}-{style}", drawn


def make_pictures(folder: Path) -> int:
    """Every face on white, and mirrored, as files. Returns how many there are; a folder that exists is left alone."""
    if not folder.exists():
        with atomic_folder(folder, owns=lambda name: True) as aside:
            for name, pixels in faces():
                picture = Image.new("RGBA", (SIDE, SIDE), "white")
                picture.alpha_composite(Image.fromarray(pixels))
                picture.convert("RGB").save(aside / f"{name}.png")
                ImageOps.mirror(picture.convert("RGB")).save(aside / f"{name}-mirrored.png")
    return len(list(folder.glob("*.png")))


def rows(folder: Path) -> list[Row]:
    """The data: pictures alone."""
    return PictureFolder(path=str(folder), picture="training_image").rows()


def train(pictures: Path, output: Path, steps: int = STEPS, shown: int = 4) -> TrainingResult:
    """Train on a folder of pictures. The rate goes down over the last half of the steps; `shown` pictures are drawn at
    times."""
    pipe = DDPMPipeline(unet=network(), scheduler=scheduler(), device="cpu")
    trainer = Trainer(
        pipe.with_units(PICTURES), rows(pictures), output,
        target=FullWeights(component="unet", result="component"),
        optimizer=Muon(rate=0.02, matrices=r"(blocks\.\d|mid_block)", kernels=True), rate=Rate(curve="hold", warmup=50),
        steps=steps, batch=32, average=0.999, cache="cache", checkpoint_every=250, keep=2,
        validation=Validation(every=1000, calls=tuple({"num_inference_steps": 25, "seed": s} for s in range(shown))),
    )  # fmt: skip
    return trainer.train(resume=True)


def trained(run: Path) -> DDPMPipeline:
    """A pipeline with the averaged weights of the newest checkpoint."""
    newest = last_checkpoint(run)
    if newest is None:
        raise SystemExit(f"{run} has no checkpoint yet")
    checkpoint, unet = load_checkpoint(newest), network()
    assert checkpoint.average is not None
    unet.load_state_dict(dict(checkpoint.average))
    print(f"{newest.name}: the average of {checkpoint.step} steps")
    return DDPMPipeline(unet=unet.eval(), scheduler=scheduler(), device="cpu")


def export(run: Path, target: Path) -> None:
    """Write the pipeline as a repository in 16-bit floats, with whom to thank."""
    pipe = trained(run)
    pipe.unet.half()
    pipe.save_pretrained(target)
    (target / "NOTICE").write_text(NOTICE, encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"exported {target.name}: {size / 1e6:.1f} MB")


# -- what it draws, and whether it draws what it was shown ---------------------------------------------------------


def drawn(pipe: DDPMPipeline, count: int, steps: int = DRAWN) -> NDArray[np.uint8]:
    """The pictures of the seeds from 0: [count, 32, 32, 3]."""
    pictures = []
    for first in range(0, count, 32):
        result = pipe(num_images=min(32, count - first), seed=first, num_inference_steps=steps)
        pictures += [np.asarray(picture) for picture in result.images]
    return np.stack(pictures)


def read_pictures(folder: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """Names, in order, and pixels [n, 32, 32, 3] of the pictures of a folder."""
    paths = sorted(folder.glob("*.png"))
    return [path.stem for path in paths], np.stack([np.asarray(Image.open(path)) for path in paths])


def distances(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean absolute difference, of 1, between all pairs: [pictures, others]."""
    flat = others.reshape(len(others), -1).astype(np.int16)
    each = [np.abs(flat - one.reshape(1, -1).astype(np.int16)).mean(1) / 255 for one in pictures]
    return np.stack(each)


def between_real(names: list[str], pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far each real picture that is not mirrored is from the nearest other, mirrored or not."""
    own = [name.removesuffix("-mirrored") for name in names]
    plain_ones = [index for index, name in enumerate(names) if name == own[index]]
    apart = distances(pictures[plain_ones], pictures)
    for row, index in enumerate(plain_ones):
        apart[row, [other for other, name in enumerate(own) if name == own[index]]] = np.inf
    nearest: NDArray[np.float64] = apart.min(1)
    return nearest


def grid(pictures: NDArray[np.uint8], columns: int, scale: int = 2) -> Image.Image:
    """Pictures row by row, enlarged without smoothing."""
    lines = [np.concatenate(list(pictures[at : at + columns]), 1) for at in range(0, len(pictures), columns)]
    image = Image.fromarray(np.concatenate(lines, 0))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def sheets(pipe: DDPMPipeline, data: Path, target: Path, count: int = 96, steps: int = DRAWN) -> None:
    """Every picture of the first seeds; the first row of them above what is nearest in the data; and the distances."""
    names, real = read_pictures(data)
    pictures = drawn(pipe, count, steps)
    target.mkdir(parents=True, exist_ok=True)
    grid(pictures, 16).save(target / "faces-32.webp", lossless=True, method=6)
    apart = distances(pictures, real)
    nearest = real[apart.argmin(1)]
    grid(np.concatenate([pictures[:16], nearest[:16]]), 16).save(
        target / "faces-32-nearest.webp", lossless=True, method=6
    )
    for label, found in (("drawn to nearest real", apart.min(1)), ("real to nearest other", between_real(names, real))):
        low, middle, high = np.percentile(found, (10, 50, 90))
        print(f"{label}: {low:.4f} {middle:.4f} {high:.4f} (10th, 50th and 90th percentile of {len(found)})")


def main(stage: str, work: str, *more: str) -> None:
    pictures, run = Path(work) / "pictures", Path(work) / "run"
    if stage == "pictures":
        print(f"{make_pictures(pictures)} pictures, mirrored ones with them")
    elif stage == "train":
        print(train(pictures, run, *map(int, more)))
    elif stage == "export":
        export(run, Path(more[0]))
    elif stage == "sheet":
        sheets(trained(run), pictures, Path(more[0]))
    else:
        raise SystemExit(f"{stage!r} is none of pictures, train, export, sheet")


if __name__ == "__main__":
    main(*sys.argv[1:])
