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
    autoencoder_minutes: float
    width: int
    depth: int
    heads: int
    batch: int
    ema: float
    transformer_minutes: float
    transformer_steps: int
    pool: int
    """Composed pictures that are encoded at a time and then used `passes` times."""
    passes: int
    pool_workers: int = 1
    """Processes that compose a pool."""

    @property
    def steps_per_pass(self) -> int:
        """Steps that go once through a pool."""
        return self.pool // self.batch

    @property
    def folder(self) -> Path:
        return WORK / self.name


PRESETS = {
    "cpu": Preset(
        name="cpu",
        size=64,
        concepts="chosen",
        autoencoder_width=32,
        autoencoder_minutes=17.0,
        width=192,
        depth=6,
        heads=6,
        batch=64,
        ema=0.999,
        transformer_minutes=90.0,
        transformer_steps=100_000,
        pool=16_384,
        passes=4,
    ),
    "gpu": Preset(
        name="gpu",
        size=128,
        concepts="all",
        autoencoder_width=40,
        autoencoder_minutes=6.0,
        width=288,
        depth=10,
        heads=9,
        batch=256,
        ema=0.9999,
        transformer_minutes=20.0,
        transformer_steps=100_000,
        pool=65_536,
        passes=4,
        pool_workers=12,
    ),
}
