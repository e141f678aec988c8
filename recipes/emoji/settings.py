"""Where the recipe keeps its files, and the two presets: `cpu` (64 px) and `gpu` (128 px, every concept)."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE / "work"
PACKAGE_ASSETS = HERE.parents[1] / "src" / "calotype" / "assets"

STYLES = ("noto", "blob", "3d", "flat", "twemoji")
"""The style word of every picture set, in the order in which the packed pictures hold them."""

FAMILIES = {"noto": "noto", "blob": "blob", "3d": "fluent", "flat": "fluent", "twemoji": "twemoji"}
"""The 3D and the flat set draw the same design, so a held-out (concept, style) is held out in both."""


@dataclass(frozen=True)
class Preset:
    """Everything that differs between a run on a CPU and one on a GPU."""

    name: str
    size: int
    """Side of a picture in pixels; a multiple of 8."""
    concepts: str
    """`"chosen"`: the list of `concepts.txt`; `"all"`: every picture that the sets share."""
    autoencoder_width: int
    autoencoder_steps: int
    width: int
    depth: int
    heads: int
    batch: int
    ema: float
    transformer_steps: int
    pool: int
    """Composed pictures that are encoded at a time and then used `passes` times."""
    passes: int
    pool_workers: int = 1
    """Processes that compose a pool."""

    @property
    def folder(self) -> Path:
        return WORK / self.name

    @property
    def shipped(self) -> Path:
        """The model in the package."""
        return PACKAGE_ASSETS / f"emoji-{self.size}"


PRESETS = {
    "cpu": Preset(
        name="cpu",
        size=64,
        concepts="chosen",
        autoencoder_width=32,
        autoencoder_steps=2_700,
        width=192,
        depth=6,
        heads=6,
        batch=64,
        ema=0.999,
        transformer_steps=6_800,
        pool=16_384,
        passes=4,
    ),
    "gpu": Preset(
        name="gpu",
        size=128,
        concepts="all",
        autoencoder_width=40,
        autoencoder_steps=20_000,
        width=288,
        depth=10,
        heads=9,
        batch=256,
        ema=0.9999,
        transformer_steps=20_000,
        pool=65_536,
        passes=4,
        pool_workers=12,
    ),
}
