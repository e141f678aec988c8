"""import: CPU seconds of a fresh process that imports a pipeline class and its network classes."""

from benchmarks.fresh import run_code
from benchmarks.harness import Measure, Options, Row, at_most, count_row, exactly, interleaved, interval, ratio_row

PAIRS = {
    "import DDPM": (
        "from calotype import DDPMPipeline, UNet2DModel",
        "from diffusers import DDPMPipeline, UNet2DModel",
    ),
    "import text to image (embedded)": (
        "from calotype import MiniAutoencoderKL, MiniTransformer2DModel, TextToImagePipeline, WordTextEncoder",
        "from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline",
    ),
    "import Stable Diffusion": (
        "from calotype import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel",
        "from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel",
    ),
}
FLOOR = "import torch"
ARRAYS = ("torch", "numpy")
SIDES = ("ours", "peer")


def run(options: Options) -> list[Row]:
    alone = run_code("import calotype")
    found = [m for m in ARRAYS if m in alone["modules"]]
    rows = [
        count_row(
            "import calotype alone: torch or numpy imported", len(found), exactly(0),
            counts={"modules": len(alone["modules"]), "cpu_ms": round(1e3 * alone["cpu"], 1)},
        )
    ]  # fmt: skip
    if options.scale == "smoke":
        return rows
    programs = {"torch": FLOOR} | {
        f"{side} {name}": c for name, pair in PAIRS.items() for side, c in zip(SIDES, pair, strict=True)
    }
    counts: dict[str, dict[str, int]] = {}
    sides = {label: _program(label, code, counts) for label, code in programs.items()}
    times = interleaved(sides, options.rounds_of(full=25, quick=6))
    return rows + [_row(name, times, counts) for name in PAIRS]


def _program(label: str, code: str, counts: dict[str, dict[str, int]]) -> Measure:
    def measure() -> float:
        report = run_code(code)
        counts[label] = {"modules": len(report["modules"]), "full_collections": report["full_collections"]}
        return float(report["cpu"])

    return measure


def _row(name: str, times: dict[str, list[float]], counts: dict[str, dict[str, int]]) -> Row:
    pair = {side: times[f"{side} {name}"] for side in SIDES}
    floor = interval([a / b for a, b in zip(times["torch"], pair["peer"], strict=True)]).median
    both = {f"{count}_{side}": n for side in SIDES for count, n in counts[f"{side} {name}"].items()}
    shown = both | {"floor_torch_alone": round(floor, 3)}
    return ratio_row(name, pair, at_most(0.35), sides="s CPU", counts=shown, note=" | ".join(PAIRS[name]))
