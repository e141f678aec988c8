"""What describes a `QwenImageTransformer2DModel`, and the ControlNet that has its blocks."""

from calotype.described import NonNegativeInt, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class DoubleStreamConfig(NetworkConfig):
    """What both networks have."""

    patch_size: PositiveInt = 2
    """Side of the square of latents that is one token: with `in_channels` 64, of 16 channels."""
    in_channels: PositiveInt = 64
    """Numbers in a token."""
    out_channels: PositiveInt | None = 16
    """Channels of the latents that are predicted; null is `in_channels`."""
    num_layers: PositiveInt = 60
    attention_head_dim: PositiveInt = 128
    num_attention_heads: PositiveInt = 24
    joint_attention_dim: PositiveInt = 3584
    """Width of the text encoder's hidden states."""
    axes_dims_rope: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 56, 56)
    """How many channels of a head are turned by the frame, the row and the column."""
    pooled_projection_dim: PositiveInt | None = None
    """Some files hold it; the network has no pooled text."""

    @property
    def width(self) -> int:
        """Width of every token between the blocks."""
        return self.num_attention_heads * self.attention_head_dim

    @model_validator(mode="after")
    def _axes_fit(self) -> "DoubleStreamConfig":
        if sum(self.axes_dims_rope) != self.attention_head_dim or any(width % 2 for width in self.axes_dims_rope):
            raise ValueError(
                f"axes_dims_rope must be even and together attention_head_dim {self.attention_head_dim}, got "
                f"{list(self.axes_dims_rope)}"
            )
        return self


class QwenImageTransformer2DConfig(DoubleStreamConfig):
    """What describes a `QwenImageTransformer2DModel`: the fields and defaults of the published `config.json` files.

    With `zero_cond_t`, pictures beside the drawn one have the time zero (Qwen-Image-Edit-2511). With
    `use_additional_t_cond`, the time knows of whole pictures (0) and of layers (1), and with `use_layer3d_rope` the
    last picture lies before all layers (Qwen-Image-Layered). A field with a single value is there because files hold
    it; another value names a variant that is not built.
    """

    guidance_embeds: bool = False
    zero_cond_t: bool = False
    use_additional_t_cond: bool = False
    use_layer3d_rope: bool = False

    @model_validator(mode="after")
    def _is_built(self) -> "QwenImageTransformer2DConfig":
        if self.guidance_embeds:
            raise ValueError("guidance_embeds true is a variant that is not built: no published weights have it")
        return self


class QwenImageControlNetConfig(DoubleStreamConfig):
    """What describes a `QwenImageControlNetModel`: fields and defaults of the published `config.json` files."""

    extra_condition_channels: NonNegativeInt = 0
    """Numbers in a token of the control that it has beyond those of the latents: a mask's, for inpainting."""
