"""What describes a `QwenImageBlockwiseControlNetModel`."""

from calotype.described import NonNegativeInt, PositiveInt
from calotype.nn.network import NetworkConfig


class QwenImageBlockwiseControlNetConfig(NetworkConfig):
    """What describes a `QwenImageBlockwiseControlNetModel`. The defaults are those of the published canny and depth
    networks; the one for inpainting has 4 additional numbers in a token, of the mask."""

    num_layers: PositiveInt = 60
    """Blocks of the transformer that it steers."""
    in_dim: PositiveInt = 64
    """Numbers in a token of latents."""
    additional_in_dim: NonNegativeInt = 0
    """Numbers in a token of the control beyond those."""
    dim: PositiveInt = 3072
    """Width of the transformer's tokens."""
