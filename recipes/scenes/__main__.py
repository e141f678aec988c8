"""Trains the small double-stream transformer on composed emoji, and then what it can be told beside a prompt.

    python -m recipes.emoji fetch render              # the pictures
    python -m recipes.scenes draw WORK [STEPS]        # the transformer, from nothing
    python -m recipes.scenes regions WORK [STEPS]     # an adapter: prompts that only a part of the picture sees
    python -m recipes.scenes edit WORK [STEPS]        # an adapter: a picture beside the drawn one
    python -m recipes.scenes control WORK [STEPS]     # a blockwise ControlNet: edges
    python -m recipes.scenes sheet WORK FILE.webp     # what there is of them

Each goes on where it was stopped. The latents and texts of all pictures are computed once.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from calotype import QwenImageBlockwiseControlNetModel
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.text_to_image import control, new_controlnet
from calotype.training import AdamW, FullWeights, LogitNormal, LowRankChange, Muon, Rate, Trainer
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from recipes.edges import edges
from recipes.scenes import pictures
from recipes.scenes.pipeline import EDITING, REGIONS, ScenesPipeline, untrained

LAYERS = r"(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
"""The layers of attention in both streams: what adapters change."""

STAGES: Mapping[str, Mapping[str, Any]] = {
    "draw": {
        "data": (pictures.drawn, 16_384), "steps": 2600, "batch": 64, "average": 0.999,
        "target": FullWeights(component="transformer", result="component"),
        "optimizer": Muon(rate=0.02, matrices=r"transformer_blocks\.\d+\.(attn|img_mlp|txt_mlp)"),
    },
    "regions": {
        "data": (pictures.of_two, 4096), "steps": 1500, "batch": 32, "average": 0.99,
        "target": LowRankChange(component="transformer", rank=16, layers=LAYERS), "optimizer": AdamW(rate=1e-3),
    },
    "edit": {
        "data": (pictures.changed, 4096), "steps": 400, "batch": 32, "average": 0.99,
        "target": LowRankChange(component="transformer", rank=16, layers=LAYERS), "optimizer": AdamW(rate=1e-3),
    },
    "control": {
        "data": (pictures.outlined, 4096), "steps": 400, "batch": 32, "average": 0.99,
        "target": FullWeights(component="controlnet", result="component"), "optimizer": AdamW(rate=2e-3),
    },
}  # fmt: skip
PACKS: Mapping[str, UnitPack] = {"regions": REGIONS, "edit": EDITING}


def drawing(work: Path) -> ScenesPipeline:
    """The pipeline with the averaged transformer of the newest checkpoint of `draw`; untrained where there is none."""
    pipe, newest = untrained(), last_checkpoint(work / "draw")
    if newest is not None:
        average = load_checkpoint(newest).average
        assert average is not None
        pipe.transformer.load_state_dict(dict(average))
    return pipe


def equipped(stage: str, pipe: ScenesPipeline) -> Any:
    """The pipeline with the units of a stage."""
    if stage == "draw":
        return pipe
    if stage == "control":
        return pipe.with_units(control(), controlnet=new_controlnet(pipe.transformer))
    return pipe.with_units(PACKS[stage])


def train(stage: str, work: Path, steps: int | None = None) -> None:
    """One stage, of `STAGES`."""
    chosen = dict(STAGES[stage])
    draw, count = chosen.pop("data")
    data = work / f"pictures-{stage}"
    pictures.make(data, draw, count)
    pipe = untrained() if stage == "draw" else drawing(work)
    trainer = Trainer(
        equipped(stage, pipe), pictures.rows(data), work / stage,
        **{**chosen, "steps": steps or chosen["steps"]}, objective={"times": LogitNormal()},
        rate=Rate(curve="hold", warmup=100), dropout={"prompt": 0.1}, cache="cache", checkpoint_every=100, keep=2,
    )  # fmt: skip
    print(trainer.train(resume=True))


PROMPTS = (
    "a red apple", "a purple cat", "a rocket", "a castle", "a fish on a blue background", "a dog in blob style",
    "a smiling face", "an apple beside a banana", "a green heart", "a ghost", "a robot", "a blue butterfly",
)  # fmt: skip
HALVES = ("a cat", "a dog"), ("a red apple", "a banana"), ("a car", "a tree"), ("a ghost", "a pumpkin")
CHANGES = (("an apple", "blue"), ("a car", "on a green background"), ("a cat", "black and white"), ("a fish", "purple"))


def sheet(work: Path) -> Image.Image:
    """A row for each stage that there is: fixed prompts and seeds, nothing picked."""
    pipe = drawing(work)
    lines = [[pipe(prompt=prompt, seed=seed).image for seed, prompt in enumerate(PROMPTS)]]
    if (work / "regions" / "result").exists():
        draw = equipped("regions", drawing(work))
        draw.load_adapter(work / "regions" / "result" / "pytorch_lora_weights.safetensors")
        lines.append([
            draw(prompt=pictures.OF_TWO, seed=n, region_prompts=two, region_masks=pictures.region_masks(layout)).image
            for n, (layout, two) in enumerate((layout, two) for layout in pictures.PLACES for two in HALVES)
        ])  # fmt: skip
    if (work / "edit" / "result").exists():
        editor = equipped("edit", drawing(work))
        editor.load_adapter(work / "edit" / "result" / "pytorch_lora_weights.safetensors")
        befores = [pipe(prompt=prompt, seed=seed).image for seed, (prompt, _) in enumerate(CHANGES)]
        afters = [
            editor(prompt=change, reference=before, seed=seed).image
            for seed, (before, (_, change)) in enumerate(zip(befores, CHANGES, strict=True))
        ]
        lines.append([picture for pair in zip(befores, afters, strict=True) for picture in pair])
    if (work / "control" / "result").exists():
        trained = QwenImageBlockwiseControlNetModel.from_pretrained(work / "control" / "result" / "controlnet")
        controlled: Any = pipe.with_units(control(), controlnet=trained)
        drawn = [edges(pipe(prompt=prompt, seed=100 + seed).image) for seed, prompt in enumerate(PROMPTS[:6])]
        followed = [controlled(prompt=p, seed=7, control_image=e).image for p, e in zip(PROMPTS, drawn, strict=False)]
        lines.append([picture for pair in zip(drawn, followed, strict=True) for picture in pair])
    side = pictures.SIDE
    whole = Image.new("RGB", (side * max(map(len, lines)), side * len(lines)), "white")
    for row, line in enumerate(lines):
        for column, picture in enumerate(line):
            whole.paste(picture, (side * column, side * row))
    return whole


def main(stage: str, work: str, *more: str) -> None:
    if stage == "sheet":
        sheet(Path(work)).save(more[0], quality=90, method=6)
    elif stage in STAGES:
        train(stage, Path(work), *map(int, more))
    else:
        raise SystemExit(f"{stage!r} is none of {', '.join((*STAGES, 'sheet'))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
