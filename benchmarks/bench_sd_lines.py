"""sd_lines: lines of code of Stable Diffusion's pipelines, beside the peer's of the same features."""

import ast
import importlib.util
import io
import tokenize
from pathlib import Path

from benchmarks.harness import Options, Row, count_row

ROOT = Path(__file__).parent.parent / "src" / "calotype" / "pipelines"
OURS = (
    *sorted((ROOT / "stable_diffusion").glob("*.py")),
    *(ROOT / f"{name}.py" for name in ("autoencoder", "guidance", "inputs", "latents")),
)
PEERS = (
    "stable_diffusion/pipeline_stable_diffusion.py",
    "stable_diffusion/pipeline_stable_diffusion_img2img.py",
    "stable_diffusion/pipeline_stable_diffusion_inpaint.py",
    "stable_diffusion/pipeline_stable_diffusion_instruct_pix2pix.py",
    "stable_diffusion_xl/pipeline_stable_diffusion_xl.py",
    "stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.py",
    "stable_diffusion_xl/pipeline_stable_diffusion_xl_inpaint.py",
)


def run(options: Options) -> list[Row]:
    spec = importlib.util.find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    peers = [Path(spec.origin).parent / "pipelines" / name for name in PEERS]
    rows = []
    for what, count in (("lines", _lines), ("lines of code, without blanks, comments and docstrings", _code)):
        ours, theirs = sum(map(count, OURS)), sum(map(count, peers))
        counts = {"ours": ours, "peer": theirs}
        rows.append(count_row(f"Stable Diffusion's pipelines: {what}", ours / theirs, None, unit="x", counts=counts))
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
