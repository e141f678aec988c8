"""Image to LoRA beside what DiffSynth-Studio gave for equal weights (fp32, 1e-5), and beside its published files."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.qwen_image_image2lora import QwenImageImage2LoRAModel
from calotype.models.qwen_image_image2lora.presets import fine, style

RECORDED = Path(__file__).parent / "recorded" / "qwen_image_image2lora.safetensors"
SMALL = {
    "num_blocks": 2, "compress_dim": 4, "rank": 2, "residual_length": 3, "residual_mid_dim": 5, "in_dim": 12,
    "residual_dim": 6, "dim": 8,
}  # fmt: skip


def below(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def network(sees: bool) -> QwenImageImage2LoRAModel:
    return QwenImageImage2LoRAModel(**SMALL, use_residual=sees).eval()


@pytest.mark.parametrize("kind", ["style", "coarse"])
@torch.no_grad()
def test_equal_to_what_the_reference_gave(kind: str) -> None:
    recorded = below(load_file(RECORDED), f"{kind}.")
    net = network(kind == "coarse")
    net.load_state_dict(below(recorded, "weight."), strict=True)
    made = net(recorded["features"], recorded.get("residual"))
    wanted = below(recorded, "output.")
    assert len(made) == 2 * 12 and len(wanted) == 2 * len(made)
    for name, (down, up) in made.items():
        torch.testing.assert_close(down, wanted[f"{name}.lora_A.default.weight"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(up, wanted[f"{name}.lora_B.default.weight"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "known", "billions"),
    [
        (style().model_dump(), "0aad514690602ecaff932c701cb4b0bb", 2.4),
        ({}, "a166c33455cdbd89c0888a3645ca5c0f", 7.9),
        (fine().model_dump(), "a5476e691767a4da6d3a6634a10f7408", 7.6),
    ],
    ids=["style", "coarse", "fine"],
)
def test_names_and_shapes_are_those_of_the_published_files(fields: dict[str, Any], known: str, billions: float) -> None:
    """DiffSynth-Studio knows a file by a digest of its keys and shapes."""
    with torch.device("meta"):
        net = QwenImageImage2LoRAModel(**fields)
    sizes = {key: "_".join(map(str, value.shape)) for key, value in net.state_dict().items()}
    told = sorted([*sizes, *(f"{key}:{size}" for key, size in sizes.items())])
    assert hashlib.md5(",".join(told).encode()).hexdigest() == known
    assert round(sum(p.numel() for p in net.parameters()) / 1e9, 1) == billions


def test_what_does_not_fit_is_refused() -> None:
    features, states = torch.randn(12), torch.randn(3, 6)
    with pytest.raises(InputError, match=r"features .* must be \[12\] \(in_dim\), got \[5\]"):
        network(True)(features[:5], states)
    with pytest.raises(MissingInput, match="needs the picture's hidden states"):
        network(True)(features)
    with pytest.raises(UnusedInput, match="sees none"):
        network(False)(features, states)
    with pytest.raises(InputError, match=r"residual .* must be \[3, 6\], got \[2, 6\]"):
        network(True)(features, states[:2])
