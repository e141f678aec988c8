"""qwen_lines: lines of code of everything that is Qwen-Image's alone, beside both peers'."""

import ast
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import other_peer
from benchmarks.harness import Options, Row, count_row, skipped

ROOT = Path(__file__).parent.parent / "src" / "calotype"
OURS = (
    "pipelines/qwen_image",
    "models/qwen_image",
    "models/qwen_image_blockwise_controlnet",
    "models/qwen_image_image2lora",
    "models/autoencoder_kl_qwen_image",
    "pipelines/conditions.py",
    *(
        f"nn/{name}.py"
        for name in ("double_stream", "streams", "rope", "patches", "attention_backends", "side_by_side", "beside")
    ),
    "sampling/packing.py",
)
"""With what other families will share, and this one is the first to use."""
ALONE = (
    "models/qwen_image/controlnet.py",
    "pipelines/qwen_image/controlled.py",
    "pipelines/qwen_image/captioning.py",
    *(f"nn/{name}.py" for name in ("attention_backends", "side_by_side", "beside")),
)
"""Of these, what `OTHER` lacks: ControlNets of the transformer's own blocks, captions and fused products are not in
that peer, and its kernels of attention and its adapters are in files that all of its families share."""
OTHER = (
    "pipelines/qwen_image.py",
    *(f"models/qwen_image_{name}.py" for name in ("dit", "vae", "controlnet", "text_encoder", "image2lora")),
    "utils/state_dict_converters/qwen_image_text_encoder.py",
)
DIFFUSERS = (
    "pipelines/qwenimage",
    "models/transformers/transformer_qwenimage.py",
    "models/autoencoders/autoencoder_kl_qwenimage.py",
    "models/controlnets/controlnet_qwenimage.py",
)


def run(options: Options) -> list[Row]:
    ours = _files(ROOT, OURS)
    title = "Qwen-Image's pipelines and networks: lines, all written by one formatter"
    lacking = set(_files(ROOT, ALONE))
    both = [path for path in ours if path not in lacking]
    other, theirs = other_peer.NAME, other_peer.root()
    return [
        _beside(f"{title}, beside {other}", ours, other, theirs, OTHER),
        _beside(f"{title}, beside diffusers", ours, "diffusers", _folder("diffusers"), DIFFUSERS),
        _beside(f"{title}, of what both have, beside {other}", both, other, theirs, OTHER),
    ]


def _beside(title: str, ours: Sequence[Path], peer: str, folder: Path | None, names: Iterable[str]) -> Row:
    if folder is None:
        return skipped(title, other_peer.MISSING)
    theirs = _files(folder, names)
    one, other = written(ours), written(theirs)
    counts = {"files_ours": len(ours), "files_peer": len(theirs)}
    return count_row(title, one / other, None, unit="x", ours=one, peer=other, sides="lines", peer_name=peer,
                     counts=counts)  # fmt: skip


def written(files: Iterable[Path]) -> int:
    """Lines of code as Python itself writes them again: no blanks, comments or docstrings, a statement on each line,
    however a file breaks them."""
    texts = (ast.unparse(_bare(ast.parse(path.read_text(encoding="utf-8")))) for path in files)
    return sum(bool(line.strip()) for text in texts for line in text.splitlines())


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings and other statements that are a text alone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _files(root: Path, names: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for name in names:
        path = root / name
        found += sorted(path.glob("*.py")) if path.is_dir() else [path]
    return found


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
