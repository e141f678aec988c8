"""Rows of what the network knows already, so that it does not forget it while it learns something of its kind."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.atomic import atomic_file, remove_left
from calotype.errors import InputError
from calotype.paths import path_of
from calotype.training.alone import alone_in
from calotype.training.rows import Row

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

LOCK = "prior.lock"
"""The file that the process which draws the pictures has locked."""


def prior_rows(
    pipe: "DiffusionPipeline",
    call: Mapping[str, Any],
    folder: str | PathLike[str],
    *,
    count: int = 100,
    weight: float = 1.0,
    picture: str = "image",
) -> list[Row]:
    """Rows of pictures that the pipeline makes of a class, to be given beside those of a subject.

    Source: Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation", 2022,
    eq. 2: the loss of these rows, by `weight`, is added to that of the others.

    Args:
        pipe: as it is before the training.
        call: inputs of a call for the class, such as `{"prompt": "a dog"}`; seeds are from 0.
        folder: where the pictures are kept. Those that are there already are taken as they are.
        count: how many.
        weight: how much each counts beside a row of the subject.
        picture: the input that the picture is for.

    Raises:
        InputError: `call` has a seed, or `count` is none.
        TrainingError: nothing can be written there.
    """
    if "seed" in call:
        raise InputError("prior_rows gives every picture a seed of its own; leave 'seed' out of the call")
    if count < 1:
        raise InputError(f"prior_rows: count must be at least 1, got {count}")
    place = path_of(folder, "prior_rows", "the path of a folder")
    paths = [place / f"{seed:05d}.png" for seed in range(count)]
    if not all(path.exists() for path in paths):
        _draw(pipe, call, place, paths)
    prompt = {name: value for name, value in call.items() if name == "prompt"}
    return [Row(f"prior {path.name}", {**prompt, picture: path}, weight) for path in paths]


def _draw(pipe: "DiffusionPipeline", call: Mapping[str, Any], place: Path, paths: Sequence[Path]) -> None:
    """Make those that are not there. Where another process is at it in the same folder, wait for that first."""
    with alone_in(place, LOCK, "prior", wait=True):
        remove_left(place, "[0-9]*.png")
        for seed, path in enumerate(paths):
            if not path.exists():
                image = pipe(**call, seed=seed).image
                with atomic_file(path) as aside, aside.open("wb") as file:
                    image.save(file, format="PNG")
