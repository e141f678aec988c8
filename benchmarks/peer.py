"""The peer's pipelines that loops are compared with: small networks with random weights, whose forward is replaced."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DDIM: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's settings of DDIM."""


def diffusers() -> Any:
    """The peer's package, which has no types."""
    return importlib.import_module("diffusers")


@dataclass
class PeerLoop:
    """A pipeline of the peer around a network that returns a ready tensor.

    `latents` and `embeds` are the shapes of one item, for a pipeline of ours of the same kind.
    """

    call: Callable[[int], Any]
    latents: tuple[int, ...]
    embeds: tuple[int, ...]


def epsilon_ddim() -> PeerLoop:
    """Stable Diffusion's pipeline: both branches in one batch, DDIM."""
    peers = diffusers()
    torch.manual_seed(0)
    unet = peers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(4, 8), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, norm_num_groups=2,
    )  # fmt: skip
    vae = peers.AutoencoderKL(
        block_out_channels=[4, 8], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    scheduler = peers.DDIMScheduler(**DDIM)
    pipe = peers.StableDiffusionPipeline(
        unet=unet, scheduler=scheduler, vae=vae, text_encoder=None, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    embeds = torch.randn(1, 77, 8)
    _replace_forward(unet, torch.randn(2, 4, 8, 8) * 0.01)
    return _loop(
        pipe, (1, 4, 8, 8), (1, 77, 8),
        prompt_embeds=embeds, negative_prompt_embeds=embeds * 0, guidance_scale=7.5, height=16, width=16,
    )  # fmt: skip


def flow_euler() -> PeerLoop:
    """Qwen-Image's pipeline: the branches in turn, flow matching with Euler's method."""
    peers = diffusers()
    torch.manual_seed(0)
    transformer = peers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = peers.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipe = peers.QwenImagePipeline(
        scheduler=peers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        vae=vae,
    )
    mask = torch.ones(1, 16, dtype=torch.long)
    _replace_forward(transformer, torch.randn(1, 16, 16) * 0.01)
    return _loop(
        pipe, (1, 16, 16), (1, 16, 16), prompt_embeds=torch.randn(1, 16, 16), prompt_embeds_mask=mask,
        negative_prompt_embeds=torch.randn(1, 16, 16), negative_prompt_embeds_mask=mask, true_cfg_scale=4.0,
        height=32, width=32,
    )  # fmt: skip


def _replace_forward(network: Any, ready: Tensor) -> None:
    network.forward = lambda *_, **__: (ready,)


def _loop(pipe: Any, latents: tuple[int, ...], embeds: tuple[int, ...], **inputs: Any) -> PeerLoop:
    pipe.set_progress_bar_config(disable=True)
    return PeerLoop(lambda steps: pipe(num_inference_steps=steps, output_type="latent", **inputs), latents, embeds)
