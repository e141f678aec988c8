"""Pipelines of Qwen-Image around random weights: ours, diffusers', and the other peer's steps, with guidance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import other_peer
from benchmarks.peer import diffusers
from calotype import AutoencoderKLQwenImage, Branches, FlowMatchEuler, QwenImagePipeline, QwenImageTransformer2DModel

WORDS, EMPTY = 40, 6
"""Tokens of a prompt, and of an empty one with the end of the template."""
SCALE = 4.0
SCHEDULER: dict[str, Any] = {
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02,
    "time_shift_type": "exponential", "use_dynamic_shifting": True,
}  # fmt: skip
"""As published with Qwen-Image."""
VAE: dict[str, Any] = {"base_dim": 8, "num_res_blocks": 1}
"""A small one of the published number of channels: no loop decodes."""


@dataclass
class Loops:
    """One call of so many steps, of each side, to latents [1, tokens, c]; `shown` is one prediction of each."""

    calls: dict[str, Callable[[int], Tensor]]
    ours: Any
    peer: Any
    other: Any = None

    def compile(self) -> None:
        """Compile the repeated blocks of all networks, with the defaults of `torch.compile`."""
        self.ours.compile("transformer")
        self.peer.transformer.compile_repeated_blocks()
        if self.other is not None:
            for block in self.other.transformer_blocks:
                block.compile()


def loops(config: dict[str, Any], side: int) -> Loops:
    """Pipelines around one set of weights, for a square of so many tokens on each side."""
    torch.manual_seed(0)
    theirs = diffusers().QwenImageTransformer2DModel(patch_size=2, **config).eval()
    network = QwenImageTransformer2DModel(**config).eval()
    network.load_state_dict(theirs.state_dict(), assign=True)
    noise, texts = drawn(network, side)
    ours, peer = our_pipeline(network), peers_pipeline(theirs)
    found = Loops({"ours": our_call(ours, noise, texts), "peer": peers_call(peer, noise, texts)}, ours, peer)
    if other_peer.root() is not None:
        found.other = other_peer.transformer(theirs.state_dict(), **config)
        found.calls["other"] = _others(found.other, noise, texts)
    return found


def drawn(network: Any, side: int, device: str = "cpu") -> tuple[Tensor, dict[str, Tensor]]:
    """Noise for a square of so many tokens on each side, and texts of both branches, as a network takes them."""
    config, dtype, generator = network.config, next(network.parameters()).dtype, torch.Generator().manual_seed(0)
    noise = torch.randn(1, config.out_channels, 2 * side, 2 * side, generator=generator)
    lengths = {"positive": WORDS, "negative": EMPTY}
    width = config.joint_attention_dim
    texts = {name: torch.randn(1, length, width, generator=generator) for name, length in lengths.items()}
    return noise.to(device, dtype), {name: text.to(device, dtype) for name, text in texts.items()}


def our_pipeline(network: Any, **surroundings: Any) -> Any:
    """Our pipeline around a transformer, with a small autoencoder and no text encoder."""
    vae = AutoencoderKLQwenImage(**_vae(network)).eval()
    return QwenImagePipeline(
        tokenizer=None, text_encoder=None, transformer=network, vae=vae, scheduler=FlowMatchEuler(**SCHEDULER),
        **({"device": "cpu"} | surroundings),
    )  # fmt: skip


def peers_pipeline(network: Any) -> Any:
    """diffusers' pipeline around a transformer, likewise."""
    peers = diffusers()
    pipe = peers.QwenImagePipeline(
        scheduler=peers.FlowMatchEulerDiscreteScheduler(**SCHEDULER), text_encoder=None, tokenizer=None,
        transformer=network, vae=peers.AutoencoderKLQwenImage(**_vae(network)),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _vae(network: Any) -> dict[str, Any]:
    channels = network.config.out_channels
    return VAE | {"z_dim": channels, "latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}


def our_call(pipe: Any, noise: Tensor, texts: dict[str, Tensor]) -> Callable[[int], Tensor]:
    size = 8 * noise.shape[-1]
    given = {"noise": noise, "prompt_embeds": Branches(**texts)}

    def call(steps: int) -> Tensor:
        (made,) = pipe(
            height=size, width=size, num_inference_steps=steps, guidance_scale=SCALE, given=given, outputs=("latents",)
        )["latents"]
        return tokens(made)

    return call


def peers_call(pipe: Any, noise: Tensor, texts: dict[str, Tensor]) -> Callable[[int], Tensor]:
    size, packed = 8 * noise.shape[-1], tokens(noise)
    masks = {name: torch.ones(text.shape[:2], dtype=torch.long, device=text.device) for name, text in texts.items()}

    def call(steps: int) -> Tensor:
        made: Tensor = pipe(
            num_inference_steps=steps, output_type="latent", true_cfg_scale=SCALE, height=size, width=size,
            latents=packed, prompt_embeds=texts["positive"], prompt_embeds_mask=masks["positive"],
            negative_prompt_embeds=texts["negative"], negative_prompt_embeds_mask=masks["negative"],
        ).images  # fmt: skip
        return made

    return call


def _others(network: Any, noise: Tensor, texts: dict[str, Tensor]) -> Callable[[int], Tensor]:
    """Its network as its pipeline calls it, one branch after the other, with plain guidance and Euler's step; the rest
    of its pipeline, which is not installed, takes no time here."""
    size = 8 * noise.shape[-1]
    masks = {name: torch.ones(text.shape[:2], dtype=torch.long) for name, text in texts.items()}

    def predicted(x: Tensor, sigma: float, name: str) -> Tensor:
        made: Tensor = network(x, torch.tensor([sigma]), texts[name], masks[name], size, size)
        return made

    @torch.no_grad()
    def call(steps: int) -> Tensor:
        x = tokens(noise)
        for index in range(steps):
            shown, sigma = pictures(x, noise), (steps - index) / steps
            positive, negative = predicted(shown, sigma, "positive"), predicted(shown, sigma, "negative")
            x = x - (negative + SCALE * (positive - negative)) / steps
        return x

    return call


def tokens(latents: Tensor) -> Tensor:
    """Latents [1, c, h, w] as squares of 2x2: [1, h w / 4, 4 c]."""
    return latents.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def pictures(rows: Tensor, like: Tensor) -> Tensor:
    """The latents of tokens."""
    _, channels, height, width = like.shape
    squares = rows.view(1, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(like.shape)
