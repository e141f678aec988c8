"""What describes a `MiniTransformer2DModel`."""

from typing import Self

from calotype.described import PositiveFloat, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class MiniTransformer2DConfig(NetworkConfig):
    """Fields of `MiniTransformer2DModel`. The defaults are the embedded model's."""

    in_channels: PositiveInt = 16
    """Channels of the latents."""
    sample_size: PositiveInt = 8
    """Side of the latents that it was trained on; other sizes see the same positions, more or less finely."""
    hidden_size: PositiveInt = 192
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 6
    mlp_ratio: PositiveFloat = 2.0
    """Inner width of the gated feed-forward layer, as a multiple of `hidden_size`."""
    text_dim: PositiveInt = 192
    """Length of the text encoder's hidden states and of its pooled vector."""
    norm_eps: PositiveFloat = 1e-5

    @property
    def width(self) -> int:
        """Width of every token between the blocks, by the name that all transformers have for it."""
        return self.hidden_size

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 4 (sines and cosines of two axes)")
        return self
