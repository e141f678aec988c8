"""What training takes of a pipeline of Qwen-Image: a batch at levels of its own, with what a loop makes once."""

from pathlib import Path
from typing import Any

import torch

from calotype import QwenImagePipeline
from calotype.nn.patches import patched, unpatched
from calotype.sampling.levels import Level
from calotype.training.predictor import Predictor
from calotype.training.wires import trained_wires
from tiny_qwen import parts, with_weights_of

LEVELS = [Level(1 - s, s, 1000 * s) for s in (0.2, 0.7)]


def test_a_batch_at_levels_of_its_own_is_the_network_s_own(tmp_path: Path) -> None:
    pipe = with_weights_of(QwenImagePipeline, parts(), tmp_path)
    wires = trained_wires(QwenImagePipeline.graph, ["transformer"])
    assert {"prompt_embeds", "grids"} <= set(wires.conditions) and "sigmas" not in wires.conditions
    predictor = Predictor(wires.loop, pipe.components)
    x, text = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 16)
    known: dict[str, Any] = dict.fromkeys(wires.conditions) | {
        "prompt_embeds": text,
        "prompt_mask": torch.ones(2, 5, dtype=torch.bool),
        "grids": ((1, 3, 4),),
        "attention_kernel": "sdpa",
    }
    found = predictor(x, LEVELS, known)
    tokens = patched(x)
    wanted = pipe.transformer(
        tokens.tokens, text, timestep=torch.tensor([0.2, 0.7]), img_shapes=[[tokens.grid]] * 2
    ).sample  # fmt: skip
    assert predictor.together
    torch.testing.assert_close(found, unpatched(wanted, tokens.grid), atol=1e-5, rtol=1e-4)
    found.square().mean().backward()
    assert pipe.transformer.txt_in.weight.grad.abs().sum() > 0  # which is made once for the batch
