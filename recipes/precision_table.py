"""Prints what `docs/storage.md` says of each precision: bits a weight, and what it changes in the embedded model.

    python -m recipes.precision_table

The error is that of the packed layers relative to their size; the difference the mean over the pixels of eight pictures
from those of the whole weights, in levels of 255. A precision whose package is not installed is said to be missing.
"""

import sys
from typing import Any

import numpy as np
import torch

from calotype import TextToImagePipeline
from calotype.errors import CalotypeError
from calotype.memory.storage import precision_of, size_of, store

THINGS = ("an apple", "a car", "a cat", "a tree", "a star", "a flower", "a dog", "a house")
PRECISIONS = (
    "float8_e4m3fn", "float8_e5m2", "int8", "int4", "nf4", "fp4", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0",
    "torchao_int8", "torchao_int8_dynamic", "torchao_float8",
    "bitsandbytes_nf4", "bitsandbytes_fp4", "bitsandbytes_int8",
)  # fmt: skip


def fresh() -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")


def pictures(pipe: TextToImagePipeline, first_seed: int = 0) -> np.ndarray:
    """Eight pictures [8, h, w, 3], each of a seed of its own."""
    drawn = [pipe(prompt=thing, seed=first_seed + seed).images[0] for seed, thing in enumerate(THINGS)]
    return np.stack([np.asarray(picture, np.float64) for picture in drawn])


def main() -> None:
    whole = fresh()
    plain = pictures(whole)
    apart = np.abs(pictures(whole, len(THINGS)) - plain).mean()
    sys.stdout.write(f"pictures of another seed: {apart:.3g}\n")
    weights = {
        name.removesuffix(".weight"): weight.detach()
        for name, weight in whole.transformer.named_parameters()
        if name.endswith(".weight")
    }
    for precision in PRECISIONS:
        pipe = fresh()
        try:
            store(pipe.transformer, {"*": precision})
        except CalotypeError as error:
            sys.stdout.write(f"{precision}: {error}\n")
            continue
        packed = list(precision_of(pipe.transformer))
        bits = 8 * size_of(pipe.transformer).packed / sum(weights[name].numel() for name in packed)
        decoded: dict[str, Any] = {name: pipe.transformer.get_submodule(name).weight for name in packed}
        wrong = sum(float((decoded[name] - weights[name]).square().sum()) for name in packed)
        size = sum(float(weights[name].square().sum()) for name in packed)
        difference = np.abs(pictures(pipe) - plain).mean()
        sys.stdout.write(
            f"| `{precision}` | {bits:.2f} | {100 * (wrong / size) ** 0.5:.2g} % | {difference:.2g} |"
            f" {len(packed)} layers, {size_of(pipe.transformer).packed + size_of(pipe.transformer).plain:,} bytes\n"
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
