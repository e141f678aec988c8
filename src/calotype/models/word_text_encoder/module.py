"""A transformer encoder over vectors of whole words.

The blocks are those of Vaswani et al., "Attention Is All You Need" (2017), with normalization before each layer, root
mean square normalization (Zhang and Sennrich, 2019) and a gated feed-forward layer (Shazeer, "GLU Variants Improve
Transformer", 2020).
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.errors import InputError
from calotype.models.word_text_encoder.config import WordTextEncoderConfig
from calotype.nn.network import Network
from calotype.nn.normalization import RMSNorm


class WordEmbeddings(NamedTuple):
    """What a prompt becomes."""

    hidden_states: Tensor
    """[b, l, c], zero where `mask` is false."""
    mask: Tensor
    """[b, l], true where there is a token."""
    pooled: Tensor
    """[b, c], the prompt as a bag of words."""


class EncoderBlock(nn.Module):
    """Self-attention over the tokens of one prompt, then a gated feed-forward layer."""

    def __init__(self, config: WordTextEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = RMSNorm(width, eps=config.norm_eps)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm2 = RMSNorm(width, eps=config.norm_eps)
        self.gate_up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm1(x)), "b l (n h d) -> n b h l d", n=3, h=self.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.to_out(rearrange(attended, "b h l d -> b l (h d)"))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        fed: Tensor = self.down(F.silu(gate) * up)
        return x + fed


class WordTextEncoder(Network):
    """Token ids of a `WordTokenizer` to hidden states and a pooled vector."""

    Config = WordTextEncoderConfig
    weights_name = "model.safetensors"
    config: WordTextEncoderConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        self.word_embedding = nn.Embedding(config.vocab_size, config.word_dim)
        self.position_embedding = nn.Parameter(torch.zeros(config.max_length, config.hidden_size))
        self.proj_in = nn.Linear(config.word_dim, config.hidden_size)
        self.blocks = nn.ModuleList([EncoderBlock(config) for _ in range(config.num_layers)])
        self.norm_out = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.norm_pooled = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> WordEmbeddings:
        """Encode prompts. Every prompt must have at least one token (the start token is one).

        Raises:
            InputError: a prompt is longer than `config.max_length`.
        """
        return self.encode_vectors(self.word_embedding(ids), mask)

    def encode_vectors(self, vectors: Float[Tensor, "b l v"], mask: Bool[Tensor, "b l"]) -> WordEmbeddings:
        """The same from word vectors, for training that adjusts them."""
        length = vectors.shape[1]
        if length > self.config.max_length:
            raise InputError(f"a prompt must have at most {self.config.max_length} tokens, got {length}")
        words = self.proj_in(vectors)
        weight = mask[..., None].to(words.dtype)
        x = words + self.position_embedding[:length]
        for block in self.blocks:
            x = block(x, mask)
        bag = (words * weight).sum(1) / weight.sum(1).sqrt()
        return WordEmbeddings(self.norm_out(x) * weight, mask, self.norm_pooled(bag))
