"""Stable Diffusion with a ControlNet within budgets: networks of other libraries and of our own, together in a loop."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch

from calotype import ControlNetModel, StableDiffusionPipeline
from calotype.nn import linear, winograd
from calotype.pipelines.stable_diffusion import control
from tiny_sd import picture, reference_pipeline, spread, tiny_vae

CALL = {"prompt": "a red cat", "num_inference_steps": 3, "seed": 5, "depth_image": picture(), "outputs": ["latents"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    torch.manual_seed(5)
    net = diffusers.ControlNetModel.from_unet(reference.unet, conditioning_embedding_out_channels=(4, 6))
    spread(net.eval())
    reference.save_pretrained(path)
    net.save_pretrained(path / "net")
    return path


def load(folder: Path, dtype: str, memory: Any = None) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, device="cpu", memory=memory, memo=0)
    net = ControlNetModel.from_pretrained(folder / "net", dtype=dtype)
    return pipe.with_units(control("depth", "depth_net"), depth_net=net)


def latents(pipe: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(**CALL).latents
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_budget_gives_the_same_numbers(folder: Path, dtype: str) -> None:
    resident = load(folder, dtype)
    plan = resident.plan(**CALL)
    loop = plan.sizes["unet"] + plan.sizes["depth_net"]
    asked = load(folder, dtype, loop)
    roomy = load(folder, dtype, "1GiB").plan(**CALL)
    parts = [{name: getattr(asked, name) for name in node.components} for node in plan.nodes]
    needs = [asked._residency.least(p) + n for p, n in zip(parts, roomy.computed, strict=True)]
    values = max(roomy.computed)
    assert max(needs) < 0.8 * loop + values
    for budget in (max(needs), loop + values, sum(plan.sizes.values()) + values + 2**16):
        pipe = load(folder, dtype, budget)
        assert torch.equal(latents(pipe), latents(resident))
        assert torch.equal(latents(pipe), latents(resident))


def test_the_text_encoder_of_another_library_waits_in_its_file(folder: Path) -> None:
    pipe = load(folder, "float32", "1GiB")
    assert pipe.plan(**CALL).memory["text_encoder"].waits == "disk"


def test_wide_networks_that_stream_give_the_same_numbers(tmp_path: Path) -> None:
    """Wide enough for convolutions by tiles and the products of oneDNN, in the denoiser and in the decoder."""
    one_block = {"block_out_channels": (256,), "sample_size": 24}
    reference = reference_pipeline(
        diffusers.StableDiffusionPipeline,
        unet={**one_block, "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)},
    )
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    reference.vae = tiny_vae(**one_block, **kinds)
    spread(reference.vae)
    reference.save_pretrained(tmp_path)
    call = {"prompt": "a red cat", "num_inference_steps": 1, "seed": 5, "guidance_scale": 1.0}
    made = []
    for memory in (None, {"cpu": "1GiB", "unet": "stream", "vae": "stream"}):
        pipe = StableDiffusionPipeline.from_pretrained(tmp_path, device="cpu", memory=memory, memo=0)
        with (
            patch.object(winograd, "_tiles", wraps=winograd._tiles) as tiles,
            patch.object(linear, "onednn", wraps=linear.onednn) as products,
        ):
            made.append(pipe(**call, outputs=["latents", "pixels"]))
        assert tiles.call_count and products.call_count
    assert str(pipe.plan(**call)).count("a pass from the disk") == 2
    resident, streamed = made
    assert torch.equal(streamed.latents, resident.latents)
    assert torch.equal(streamed.pixels, resident.pixels)
