"""What describes a `WordTextEncoder`."""

from typing import Self

from calotype.described import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class WordTextEncoderConfig(NetworkConfig):
    """Fields of `WordTextEncoder`. The defaults are the embedded model's, but for the size of the vocabulary."""

    vocab_size: PositiveInt
    word_dim: PositiveInt = 128
    """Length of a word's vector."""
    hidden_size: PositiveInt = 192
    """Length of a hidden state."""
    num_layers: NonNegativeInt = 2
    num_heads: PositiveInt = 6
    max_length: PositiveInt = 24
    """The longest prompt, in tokens."""
    norm_eps: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        return self
