"""A diffusion transformer whose image tokens attend to one another and to the words of the prompt.

The transformer over latent tokens with modulated normalization is that of Peebles and Xie, "Scalable Diffusion Models
with Transformers" (2023). One modulation is shared by all blocks, each of which adds an offset of its own (Chen et al.,
"PixArt-alpha", 2024, section 2.3); queries and keys are normalized (Dehghani et al., "Scaling Vision Transformers to 22
Billion Parameters", 2023); words enter attention as further keys and values (Nichol et al., "GLIDE", 2022, section 4).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.errors import InputError
from calotype.models.mini_transformer.config import MiniTransformer2DConfig
from calotype.nn.attention_control import AttentionControl, AttentionSite, Heads, controlled
from calotype.nn.network import Network
from calotype.nn.normalization import RMSNorm
from calotype.nn.perturbation import Perturbation
from calotype.nn.reuse import BlockCache, in_turn, residual_pass


def sinusoids(values: Float[Tensor, "n"], dim: int, max_period: float) -> Float[Tensor, "n dim"]:
    """Sines and cosines of `values` at geometrically spaced frequencies from 1 down to 1 / `max_period`."""
    half = dim // 2
    exponents = torch.arange(half, device=values.device, dtype=torch.float32) / max(half - 1, 1)
    angles = values.float()[:, None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_positions(height: int, width: int, native: int, dim: int, device: torch.device) -> Float[Tensor, "n dim"]:
    """Position of every latent of a [height, width] grid, row by row, on a picture of `native` units a side."""
    scale = native / max(height, width)
    rows = (torch.arange(height, device=device) + 0.5 - height / 2) * scale
    columns = (torch.arange(width, device=device) + 0.5 - width / 2) * scale
    by_row = sinusoids(rows * (math.pi / 2), dim // 2, max_period=2.0 * native)
    by_column = sinusoids(columns * (math.pi / 2), dim // 2, max_period=2.0 * native)
    both = [by_row[:, None].expand(-1, width, -1), by_column[None].expand(height, -1, -1)]
    return rearrange(torch.cat(both, dim=-1), "h w c -> (h w) c")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


Controls: TypeAlias = tuple[Sequence[AttentionControl], AttentionSite] | None
"""What looks into a block's attention, and which block that is."""

Residual: TypeAlias = Callable[[int, Tensor], Tensor | None]
"""From the index of a block and the image tokens [b, n, c] that leave it to what is added to them, if anything."""


def _itself(x: Tensor) -> Tensor:
    return x


def _with_residuals(layer: Callable[[Tensor], Tensor], index: int, residuals: Sequence[Residual], x: Tensor) -> Tensor:
    """What a block gives with everything that is added to it, each of which is told what left the block."""
    left = layer(x)
    made = [add(index, left) for add in residuals]
    return sum((more.to(left.dtype) for more in made if more is not None), start=left)


class TransformerBlock(nn.Module):
    """Attention over image tokens and words, then a gated feed-forward layer, both modulated and gated."""

    def __init__(self, config: MiniTransformer2DConfig) -> None:
        super().__init__()
        width = config.hidden_size
        inner = int(width * config.mlp_ratio)
        self.num_heads = config.num_heads
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.norm1 = nn.RMSNorm(width, eps=config.norm_eps, elementwise_affine=False)
        self.norm2 = nn.RMSNorm(width, eps=config.norm_eps, elementwise_affine=False)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.text_kv = nn.Linear(config.text_dim, 2 * width, bias=False)
        self.norm_q = RMSNorm(width // config.num_heads, eps=config.norm_eps)
        self.norm_k = RMSNorm(width // config.num_heads, eps=config.norm_eps)
        self.to_out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, mask: Tensor, controls: Controls = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.modulation)[:, :, None].unbind(1)
        x = x + gate1 * self.attend(modulate(self.norm1(x), shift1, scale1), text, mask, controls)
        gate, up = self.gate_up(modulate(self.norm2(x), shift2, scale2)).chunk(2, dim=-1)
        fed: Tensor = self.down(F.silu(gate) * up)
        return x + gate2 * fed

    def attend(self, x: Tensor, text: Tensor, mask: Tensor, controls: Controls = None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(x), "b l (n h d) -> n b h l d", n=3, h=self.num_heads)
        text_k, text_v = rearrange(self.text_kv(text), "b l (n h d) -> n b h l d", n=2, h=self.num_heads)
        k = self.norm_k(torch.cat([k, text_k], dim=2))
        v = torch.cat([v, text_v], dim=2)
        if controls is None:
            attended = F.scaled_dot_product_attention(self.norm_q(q), k, v, attn_mask=mask)
        else:
            attended = controlled(*controls, Heads(self.norm_q(q), k, v, mask))
        out: Tensor = self.to_out(rearrange(attended, "b h l d -> b l (h d)"))
        return out


class MiniTransformer2DModel(Network):
    """Velocity (noise - data) of noisy latents at a flow-matching time, given a prompt's embeddings."""

    Config = MiniTransformer2DConfig
    config: MiniTransformer2DConfig
    repeated_blocks = (TransformerBlock,)

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        width = config.hidden_size
        self.proj_in = nn.Linear(config.in_channels, width)
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled_embed = nn.Linear(config.text_dim, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList([TransformerBlock(config) for _ in range(config.num_layers)])
        self.norm_out = nn.RMSNorm(width, eps=config.norm_eps, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, config.in_channels)
        for layer in (self.modulation, self.modulation_out, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: Float[Tensor, "b"],
        encoder_hidden_states: Float[Tensor, "b l d"],
        encoder_mask: Bool[Tensor, "b l"],
        pooled: Float[Tensor, "b d"],
        perturbation: Perturbation | None = None,
        attention: Sequence[AttentionControl] = (),
        cache: BlockCache | None = None,
        residuals: Sequence[Residual] = (),
    ) -> Float[Tensor, "b c h w"]:
        """`timestep` is sigma: 0 for data, 1 for noise. `perturbation`: of some blocks, for guidance away from it.
        `attention`: what observes and alters the attention of every block. `cache`: what may leave out blocks.
        `residuals`: what other networks add to the image tokens after each block (`calotype.nn.streams`).

        Raises `InputError` for latents of another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != self.config.in_channels:
            raise InputError(
                f"latents must be [batch, {self.config.in_channels}, height, width], got {list(latents.shape)}"
            )
        height, width = latents.shape[2:]
        x = self.proj_in(rearrange(latents, "b c h w -> b (h w) c"))
        x = x + self.positions(height, width, x)
        condition = F.silu(self.embed_time(timestep, x) + self.pooled_embed(pooled))
        modulation = rearrange(self.modulation(condition), "b (n c) -> b n c", n=6)
        mask = self.attention_mask(encoder_mask, x)
        sites = self._controls(attention, height, width, encoder_hidden_states.shape[1])
        layers = self._layers(perturbation, sites, (modulation, encoder_hidden_states, mask), x, residuals)
        if cache is None:
            x = in_turn(layers, x)
        else:
            x = cache.passed(residual_pass(type(self).__name__, layers, x, _itself, lambda: self._cue(x, modulation)))
        shift, scale = self.modulation_out(condition)[:, None].chunk(2, dim=-1)
        velocity: Tensor = self.proj_out(modulate(self.norm_out(x), shift, scale))
        return rearrange(velocity, "b (h w) c -> b c h w", h=height)

    def _layers(
        self,
        perturbation: Perturbation | None,
        controls: Sequence[Controls],
        shared: tuple[Tensor, Tensor, Tensor],
        x: Tensor,
        residuals: Sequence[Residual],
    ) -> list[Callable[[Tensor], Tensor]]:
        """The blocks that run, as functions of the image tokens. `shared`: modulation, words, and who sees whom."""
        perturbed = perturbation.among(len(self.blocks), type(self).__name__) if perturbation else frozenset()
        skip = perturbation is not None and perturbation.kind == "skip"
        modulation, words, mask = shared
        alone = self.alone_mask(mask, x) if perturbed and not skip else mask
        layers: list[Callable[[Tensor], Tensor]] = []
        for index, block in enumerate(self.blocks):
            if skip and index in perturbed:
                continue
            seen = alone if index in perturbed else mask
            layer = partial(block, modulation=modulation, text=words, mask=seen, controls=controls[index])
            layers.append(partial(_with_residuals, layer, index, residuals) if residuals else layer)
        return layers

    def _controls(
        self, attention: Sequence[AttentionControl], height: int, width: int, words: int
    ) -> Sequence[Controls]:
        """What looks into each block."""
        count = len(self.blocks)
        if not attention:
            return [None] * count
        return [(attention, AttentionSite(f"blocks.{index}", height, width, words)) for index in range(count)]

    def _cue(self, x: Tensor, modulation: Tensor) -> Tensor:
        """What enters the first block's attention, as the time modulates it."""
        first: Any = self.blocks[0]
        shift, scale = (modulation + first.modulation)[:, :2, None].unbind(1)
        return modulate(first.norm1(x), shift, scale)

    def positions(self, height: int, width: int, like: Tensor) -> Tensor:
        config = self.config
        table = grid_positions(height, width, config.sample_size, config.hidden_size, like.device)
        return table.to(like.dtype)

    def embed_time(self, timestep: Tensor, like: Tensor) -> Tensor:
        waves = sinusoids(timestep * 1000, self.config.hidden_size, max_period=10_000.0)
        embedded: Tensor = self.time_embed(waves.to(like.dtype))
        return embedded

    def attention_mask(self, encoder_mask: Tensor, x: Tensor) -> Tensor:
        """Every image token sees all image tokens, and the words that are there: bool [b, 1, 1, image + words]."""
        image = encoder_mask.new_ones(x.shape[0], x.shape[1])
        return torch.cat([image, encoder_mask], dim=1)[:, None, None, :]

    def alone_mask(self, mask: Tensor, x: Tensor) -> Tensor:
        """The same where every image token sees of the image itself alone: bool [b, 1, image, image + words]."""
        count = x.shape[1]
        alone = torch.eye(count, dtype=torch.bool, device=x.device).expand(x.shape[0], 1, -1, -1)
        return torch.cat([alone, mask[..., count:].expand(-1, -1, count, -1)], dim=-1)
