"""sd_lines: lines of code of Stable Diffusion's pipelines, beside the peer's of the same features."""

import ast
import importlib.util
import io
import tokenize
from pathlib import Path

from benchmarks.harness import Options, Row, count_row

ROOT = Path(__file__).parent.parent / "src" / "calotype" / "pipelines"
SHARED = tuple(ROOT / f"{name}.py" for name in ("autoencoder", "guidance", "inputs", "latents"))
OURS = tuple(
    ROOT / "stable_diffusion" / f"{name}.py"
    for name in ("from_picture", "image_prompt", "inputs", "pipeline", "pix2pix", "prompts", "sdxl", "sdxl_units",
                 "sizes", "steering", "text", "units")
)  # fmt: skip
ALL_OURS = (*sorted((ROOT / "stable_diffusion").glob("*.py")), ROOT / "controlled.py")
PEERS = (
    "stable_diffusion/pipeline_stable_diffusion.py",
    "stable_diffusion/pipeline_stable_diffusion_img2img.py",
    "stable_diffusion/pipeline_stable_diffusion_inpaint.py",
    "stable_diffusion/pipeline_stable_diffusion_instruct_pix2pix.py",
    "stable_diffusion_xl/pipeline_stable_diffusion_xl.py",
    "stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.py",
    "stable_diffusion_xl/pipeline_stable_diffusion_xl_inpaint.py",
)
ALL_PEERS = (
    *PEERS,
    *(f"controlnet/pipeline_controlnet{name}.py" for name in ("", "_img2img", "_inpaint")),
    *(f"controlnet/pipeline_controlnet{name}.py" for name in ("_sd_xl", "_sd_xl_img2img", "_inpaint_sd_xl")),
    "t2i_adapter/pipeline_stable_diffusion_adapter.py",
    "t2i_adapter/pipeline_stable_diffusion_xl_adapter.py",
    "latent_consistency_models/pipeline_latent_consistency_text2img.py",
    "latent_consistency_models/pipeline_latent_consistency_img2img.py",
)
FEATURES = {
    "from a prompt, a picture, a mask, an instruction": (OURS, PEERS),
    "the same, with ControlNets, T2I-Adapters and distilled guidance": (ALL_OURS, ALL_PEERS),
}
"""The files of the same features on both sides; ours also have what the peer's have not: weights in prompts, chunks of
long ones, and in all of them a second loop at a larger size and base and refiner in one pipeline."""


def run(options: Options) -> list[Row]:
    spec = importlib.util.find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "pipelines"
    rows = []
    for features, (ours, peers) in FEATURES.items():
        for what, count in (("lines", _lines), ("lines of code, without blanks, comments and docstrings", _code)):
            counts = {"ours": sum(map(count, (*SHARED, *ours))), "peer": sum(count(folder / name) for name in peers)}
            title = f"Stable Diffusion's pipelines, {features}: {what}"
            rows.append(count_row(title, counts["ours"] / counts["peer"], None, unit="x", counts=counts))
    return rows


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _code(path: Path) -> int:
    """Lines that hold something besides comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    held = {n for t in tokens if t.type not in skipped for n in range(t.start[0], t.end[0] + 1)}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(held)
