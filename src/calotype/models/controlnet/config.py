"""What describes a `ControlNetModel`."""

from typing import Annotated, Any, Literal

from calotype.described import Field, NonNegativeInt, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig

DownBlockType = Literal["DownBlock2D", "CrossAttnDownBlock2D"]


class ControlNetConfig(NetworkConfig):
    """What describes a `ControlNetModel`: the fields and defaults of the published `config.json` files.

    Most are those of the network that it steers, without its way up, and mean the same: `attention_head_dim` is the
    *number* of heads. `conditioning_embedding_out_channels` are the widths of the layers that shrink the picture, each
    after the first halving it. With `global_pool_conditions` the control tells what is in the picture, not where.

    A field with a single value is there because files hold it; another value names a variant that is not built.
    """

    in_channels: PositiveInt = 4
    conditioning_channels: PositiveInt = 3
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: Annotated[tuple[DownBlockType, ...], Field(min_length=1)] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] = "UNetMidBlock2DCrossAttn"
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[PositiveInt, ...] = (320, 640, 1280, 1280)
    layers_per_block: PositiveInt = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: float = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    norm_num_groups: PositiveInt = 32
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    cross_attention_dim: PositiveInt = 1280
    transformer_layers_per_block: NonNegativeInt | tuple[NonNegativeInt, ...] = 1
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: PositiveInt | tuple[PositiveInt, ...] = 8
    num_attention_heads: None = None
    use_linear_projection: bool = False
    class_embed_type: None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: PositiveInt | None = None
    num_class_embeds: None = None
    upcast_attention: bool = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    projection_class_embeddings_input_dim: PositiveInt | None = None
    controlnet_conditioning_channel_order: Literal["rgb", "bgr"] = "rgb"
    conditioning_embedding_out_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32, 96, 256)
    global_pool_conditions: bool = False
    addition_embed_type_num_heads: int = 64

    @property
    def levels(self) -> int:
        """How many sizes of map there are."""
        return len(self.block_out_channels)

    @property
    def time_channels(self) -> int:
        """The width of the time embedding that every block is given."""
        return 4 * self.block_out_channels[0]

    @property
    def downscale(self) -> int:
        """How many times smaller the maps are than the picture that controls them."""
        return 1 << (len(self.conditioning_embedding_out_channels) - 1)

    def per_level(self, value: Any) -> tuple[Any, ...]:
        """`value` for each level, from the first to the last."""
        return value if isinstance(value, tuple) else (value,) * self.levels

    def attends(self, level: int) -> bool:
        """Whether a level attends to the text."""
        return self.down_block_types[level].startswith("CrossAttn")

    @model_validator(mode="after")
    def _fits_together(self) -> "ControlNetConfig":
        self._check_levels()
        self._check_widths()
        if self.addition_embed_type is not None:
            for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                if getattr(self, name) is None:
                    raise ValueError(f"'text_time' needs {name!r}")
        return self

    def _check_levels(self) -> None:
        lists = {
            name: getattr(self, name)
            for name in (
                "block_out_channels", "down_block_types", "only_cross_attention", "transformer_layers_per_block",
                "attention_head_dim",
            )
        }  # fmt: skip
        counts = {name: len(value) for name, value in lists.items() if isinstance(value, tuple)}
        if len(set(counts.values())) > 1:
            described = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"every level needs one of each, but {described}")
        if not self.mid_block_scale_factor:
            raise ValueError("'mid_block_scale_factor' divides the middle block's sums and cannot be 0")

    def _check_widths(self) -> None:
        middle = self.mid_block_type == "UNetMidBlock2DCrossAttn"
        depths, heads = self.per_level(self.transformer_layers_per_block), self.per_level(self.attention_head_dim)
        for level, width in enumerate(self.block_out_channels):
            attends = self.attends(level) or (middle and level == self.levels - 1)
            if width % self.norm_num_groups:
                raise ValueError(
                    f"'block_out_channels' must be multiples of 'norm_num_groups' {self.norm_num_groups}, got {width}"
                )
            if attends and width % heads[level]:
                raise ValueError(
                    f"'attention_head_dim' {heads[level]}, a number of heads, must divide the {width} channels"
                )
            if attends and not depths[level]:
                raise ValueError(f"'transformer_layers_per_block' is 0 for level {level}, which attends to the text")
        if self.block_out_channels[0] // 2 == self.freq_shift:
            raise ValueError(f"'freq_shift' {self.freq_shift} leaves a positional time embedding no frequencies")
