"""community: lines of the shipped pipelines and packs, beside the peer's community files of the same purpose.

The peer's files are not installed with it, so their counts are data here, counted by this file over a checkout:

    python -m benchmarks.bench_community path/to/diffusers/examples/community
"""

import ast
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Options, Row, count_row

OURS = Path(__file__).parent.parent / "src" / "calotype" / "community"
COMMIT = "58eb52c0803ea9af3abec60841c2a093bdf1f951"
"""Of github.com/huggingface/diffusers."""

WIDTH = 120


@dataclass(frozen=True)
class Peer:
    """A file of the peer at `COMMIT`: its name, all its lines, and its lines of code as `code_lines` counts them."""

    name: str
    lines: int
    code: int


PEERS: dict[str, Peer] = {
    "one_step_unet": Peer("one_step_unet.py", 24, 14),
    "morph": Peer("interpolate_stable_diffusion.py", 498, 204),
    "composable": Peer("composable_stable_diffusion.py", 536, 231),
    "soft_mask": Peer("masked_stable_diffusion_img2img.py", 262, 107),
    "differential": Peer("pipeline_stable_diffusion_xl_differential_img2img.py", 1452, 644),
    "edict": Peer("edict_pipeline.py", 262, 132),
    "clip_guided_stable_diffusion": Peer("clip_guided_stable_diffusion.py", 337, 178),
    "prompt_to_prompt": Peer("pipeline_prompt2prompt.py", 1426, 723),
    "style_aligned": Peer("pipeline_sdxl_style_aligned.py", 1903, 871),
    "regional_prompts": Peer("regional_prompting_stable_diffusion.py", 1690, 858),
}
"""Each of our files, by name, and the peer's of the same purpose. Ours serve more: most packs go into Stable Diffusion
1, 2 and XL and into the embedded model, a file of the peer's is for one of them. But a pack leans on the pipeline that
it is inserted in, where a file of the peer's repeats it."""


def run(options: Options) -> list[Row]:
    rows, totals = [], [0, 0]
    for name, peer in PEERS.items():
        path = OURS / f"{name}.py"
        ours = code_lines(path.read_text(encoding="utf-8"))
        totals = [totals[0] + ours, totals[1] + peer.code]
        counts = {"ours": ours, "peer": peer.code, "file": peer.name, "commit": COMMIT[:12]}
        rows.append(count_row(f"community, lines of code: {name}", ours / peer.code, None, unit="x", counts=counts))
    counts = {"ours": totals[0], "peer": totals[1], "commit": COMMIT[:12]}
    return [*rows, count_row("community, lines of code: all", totals[0] / totals[1], None, unit="x", counts=counts)]


def code_lines(text: str) -> int:
    """Lines of so many columns that code fills, whoever formatted it: without blanks, comments and docstrings, each
    statement and each header of a block begins a line, and goes on over as many as it needs."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    written = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    return sum(math.ceil(len(line) / WIDTH) for line in written if line.strip())


def main(folder: Path) -> None:
    """Print the peer's counts for `PEERS`."""
    for ours, peer in PEERS.items():
        text = (folder / peer.name).read_text(encoding="utf-8")
        found = Peer(peer.name, len(text.splitlines()), code_lines(text))
        sys.stdout.write(f'    "{ours}": Peer("{found.name}", {found.lines}, {found.code}),\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
