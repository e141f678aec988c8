"""`pipe.compile`: repeated blocks compiled once, equal numbers, undone without a trace.

Blocks are traced as they are installed, without the shape checks that tests add, so in an interpreter of their own. The
backend runs what was traced as it is, which shows breaks and counts graphs without a C++ compiler.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from calotype import DiffusionPipeline, QwenImageControlNetModel, QwenImagePipeline, TextToImagePipeline
from calotype.errors import ComponentError, UnknownInput
from calotype.nn.network import Network
from calotype.pipelines.compiled import compile_blocks
from calotype.pipelines.qwen_image import control
from tiny_qwen import parts
from tiny_qwen import with_weights_of as qwen_with
from tiny_sd import reference_pipeline

MODEL = "calotype/emoji-64"
TOLD = {"in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "axes_dims_rope"}
"""Fields that a ControlNet of Qwen-Image has of its transformer."""

PROGRAM = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from torch._dynamo.utils import counters
from calotype import DiffusionPipeline, FirstBlockCache

folder, call = Path(sys.argv[2]), {"seed": 1, "outputs": ("latents",)}

def latents(pipe, **more):
    return pipe(prompt="a cat", **call, **more)["latents"][0]

def apart(pipe, **more):
    return float((latents(pipe, **more) - wanted).abs().max())

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], device="cpu", memo=0)
name, steps = ("unet", "num_inference_steps") if hasattr(pipe, "unet") else ("transformer", "steps")
network = getattr(pipe, name)
call |= {steps: 2}
keys, wanted = list(network.state_dict()), latents(pipe)
assert pipe.compile(backend="eager") is pipe
found = {"error": apart(pipe), "graphs": counters["stats"]["unique_graphs"]}
found["cached"] = apart(pipe, cache=FirstBlockCache(0.0))
found["breaks"] = dict(counters["graph_break"])
found["same keys"] = list(network.state_dict()) == keys
pipe.save_pretrained(folder / "saved")
saved = DiffusionPipeline.from_pretrained(folder / "saved", device="cpu")
found["saved"] = apart(saved)
if name == "transformer":
    layer = network.get_submodule("blocks.0.to_out")
    torch.manual_seed(0)
    tensors = {"transformer.blocks.0.to_out.lora_A.weight": torch.randn(2, layer.in_features),
               "transformer.blocks.0.to_out.lora_B.weight": torch.randn(layer.out_features, 2)}
    save_file(tensors, folder / "lora.safetensors")
    for one in (pipe, saved):
        one.load_adapter(folder / "lora.safetensors")
    found["adapter changes"] = apart(pipe)
    found["adapter"] = float((latents(pipe) - latents(saved)).abs().max())
    pipe.fuse_adapters()
    saved.fuse_adapters()
    found["fused"] = float((latents(pipe) - latents(saved)).abs().max())
    found["fused changes"] = apart(pipe)
    pipe.unfuse_adapters()
    pipe.unload_adapter()
    found["unloaded"] = apart(pipe)
found["compiled"] = sum(m._compiled_call_impl is not None for m in network.modules())
assert pipe.uncompile() is pipe
found["left"] = sum(m._compiled_call_impl is not None for m in network.modules())
found["undone"] = apart(pipe)
print(json.dumps(found))
"""


def compiled(model: str | Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(model), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_embedded_models_blocks_are_one_graph(tmp_path: Path) -> None:
    found = compiled(MODEL, tmp_path)
    assert found.pop("adapter changes") > 0.01
    assert found.pop("fused changes") > 0.01
    assert found == {
        "error": 0.0, "graphs": 1, "cached": 0.0, "breaks": {}, "same keys": True, "saved": 0.0, "adapter": 0.0,
        "fused": 0.0, "unloaded": 0.0, "compiled": 6, "left": 0, "undone": 0.0,
    }  # fmt: skip


def test_a_unets_blocks_trace_without_a_break(tmp_path: Path) -> None:
    """Of a layout with as many kinds of blocks as the published ones: more than PyTorch compiles one code for."""
    levels = {"block_out_channels": (8, 16, 24, 24), "layers_per_block": 2}
    levels |= {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)}
    levels |= {"up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3}
    reference_pipeline(diffusers.StableDiffusionPipeline, unet=levels).save_pretrained(tmp_path / "sd")
    found = compiled(tmp_path / "sd", tmp_path)
    assert 8 < found.pop("graphs") <= found["compiled"]
    assert found.pop("compiled") == 38
    assert found == {
        "error": 0.0, "cached": 0.0, "breaks": {}, "same keys": True, "saved": 0.0, "left": 0, "undone": 0.0,
    }  # fmt: skip


def test_what_has_no_repeated_blocks() -> None:
    pipe = DiffusionPipeline.from_pretrained(MODEL, device="cpu")
    with pytest.raises(UnknownInput, match="has no component 'transfomer'; did you mean 'transformer'"):
        pipe.compile("transfomer")
    with pytest.raises(ComponentError, match=r"vae is a MiniAutoencoderKL, which has no repeated .* are transformer"):
        pipe.compile("vae")
    assert all(m._compiled_call_impl is None for m in pipe.transformer.modules()), "nothing was compiled"


def test_weights_that_come_while_a_network_runs_are_refused() -> None:
    pipe = TextToImagePipeline.from_pretrained(MODEL, device="cpu", memory={"cpu": "40MiB"})
    with pytest.raises(ComponentError, match="has a memory budget, which brings weights while networks run"):
        pipe.compile()


def modules(component: Any) -> list[nn.Module]:
    return list(component.modules()) if isinstance(component, nn.Module) else []


def test_every_family_says_which_blocks_it_repeats(tmp_path: Path) -> None:
    pipe = qwen_with(QwenImagePipeline, parts(), tmp_path)
    pose = QwenImageControlNetModel(**{**pipe.transformer.config.model_dump(include=TOLD), "num_layers": 1})
    pipe = pipe.with_units(control("pose"), controlnet=pose)
    pipe.compile("transformer", "controlnet", backend="eager")
    compiled = [n for n, c in pipe.components.items() for m in modules(c) if m._compiled_call_impl is not None]
    assert sorted(compiled) == ["controlnet", "transformer", "transformer"]
    pipe.uncompile()
    assert all(m._compiled_call_impl is None for c in pipe.components.values() for m in modules(c))


class ManyWays(nn.Module):
    """A block with more kinds of arguments than PyTorch compiles one code for."""

    def forward(self, x: Tensor, mask: Tensor | None, doubled: bool, rows: int) -> Tensor:
        made = x if mask is None else x.where(mask, 0.0)
        return made.view(rows, -1) * (2 if doubled else 1)


class Ways(Network):
    repeated_blocks = (ManyWays,)

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.block = ManyWays()


def test_a_block_that_is_called_in_more_ways_than_eight_stays_compiled() -> None:
    network, calls = Ways(), []
    for rows in (1, 2, 3):
        x = torch.randn(6, 4)
        masks = (None, torch.rand(6, 4) > 0.5, torch.rand(6, 1) > 0.5, torch.rand(1, 4) > 0.5)
        calls += [(x, mask, doubled, rows) for mask in masks for doubled in (True, False)]
    wanted = [network.block(*call) for call in calls]
    compile_blocks({"ways": network}, mode=None, dynamic=None, backend="eager")
    assert all(torch.equal(network.block(*call), one) for call, one in zip(calls, wanted, strict=True))
