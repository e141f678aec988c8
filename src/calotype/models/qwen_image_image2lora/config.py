"""What describes a `QwenImageImage2LoRAModel`."""

from calotype.described import PositiveInt
from calotype.nn.network import NetworkConfig


class QwenImageImage2LoRAConfig(NetworkConfig):
    """What describes a `QwenImageImage2LoRAModel`. The defaults are those of the published `Qwen-Image-i2L-Coarse`;
    `presets` has the two others."""

    num_blocks: PositiveInt = 60
    """Blocks of the transformer that it makes adapters for."""
    use_residual: bool = True
    """Whether it sees, beside the picture's features, its hidden states from the text encoder."""
    compress_dim: PositiveInt = 128
    """Width that a picture is compressed to, for each layer."""
    rank: PositiveInt = 4
    """Of every layer's change."""
    residual_length: PositiveInt = 71
    """How many hidden states it sees: 64 of a picture of 224 x 224 pixels, and 7 of words."""
    residual_mid_dim: PositiveInt = 1024
    """Width that each hidden state is compressed to."""
    in_dim: PositiveInt = 5632
    """Width of a picture's features: 1536 of SigLIP2 and 4096 of DINOv3."""
    residual_dim: PositiveInt = 3584
    """Width of the text encoder's hidden states."""
    dim: PositiveInt = 3072
    """Width of the transformer's tokens."""
