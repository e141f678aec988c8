"""A LoRA on a base in four bits (Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from calotype import TextToImagePipeline
from calotype.memory.storage.layers import StoredLinear
from calotype.training import AdamW, LowRankChange, Trainer
from calotype.training.log import read_table
from calotype.weights.files import SafetensorsFile

DATA = [{"prompt": f"a {name} apple", "image": Image.new("RGB", (64, 64), name)} for name in ("red", "blue")]


def learned(
    pipe: Any, folder: Path, *, recompute: bool = False, **more: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses, and the adapter."""
    trainer = Trainer(
        pipe, DATA, folder, target=LowRankChange(component="transformer", rank=4, **more), steps=4, batch=2,
        optimizer=AdamW(rate=1e-2), recompute=recompute,
    )  # fmt: skip
    file = SafetensorsFile(trainer.train(progress=False).files[0])
    return [float(row["loss"]) for row in read_table(folder)], {name: file.tensor(name) for name in file.entries}


@pytest.mark.parametrize("precision", ["nf4", "int8"])
@pytest.mark.parametrize("dora", [False, True])
def test_it_learns_what_it_would_on_the_same_weights_in_full(tmp_path: Path, precision: str, dora: bool) -> None:
    packed = TextToImagePipeline.from_pretrained("calotype/emoji-64", memory={"transformer": precision})
    stored = {n: layer for n, layer in packed.transformer.named_modules() if isinstance(layer, StoredLinear)}
    assert {"blocks.0.to_qkv", "blocks.5.to_out"} <= stored.keys()
    before = {name: value.clone() for name, value in packed.transformer.state_dict().items()}
    full = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    with torch.no_grad():
        for name, layer in full.transformer.named_modules():
            if name in stored:
                assert not torch.equal(layer.weight, stored[name].weight)
                layer.weight.copy_(stored[name].weight)
    losses, adapter = learned(packed, tmp_path / "packed", dora=dora, recompute=not dora)
    wanted, other = learned(full, tmp_path / "full", dora=dora)
    assert losses == pytest.approx(wanted, rel=1e-5)
    for name, value in adapter.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)
    after = packed.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    up = next(value for name, value in adapter.items() if "lora_B" in name)
    assert up.abs().max() > 1e-3
