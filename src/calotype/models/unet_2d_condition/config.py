"""What describes a `UNet2DConditionModel`."""

from typing import Annotated, Any, Literal

from calotype.described import Field, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig

DownBlockType = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
UpBlockType = Literal["UpBlock2D", "CrossAttnUpBlock2D"]
Depth = PositiveInt | tuple[PositiveInt, ...]


class UNet2DConditionConfig(NetworkConfig):
    """What describes a `UNet2DConditionModel`: the fields and defaults of the published `config.json` files.

    `attention_head_dim` is the *number* of heads, whatever its name says: the published files were written so, and
    `num_attention_heads` is `null` in all of them. Fields that may be one value or one for each level are listed from
    the first level to the last. `sample_size` is the size trained with; any other is taken. `upcast_attention` asks
    for scores in float32, which is how the attention kernels keep them in any case.

    A field with a single value is there because files hold it; another value names a variant that is not built.
    """

    sample_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    in_channels: PositiveInt = 4
    out_channels: PositiveInt = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: Annotated[tuple[DownBlockType, ...], Field(min_length=1)] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[UpBlockType, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[PositiveInt, ...] = (320, 640, 1280, 1280)
    layers_per_block: PositiveInt | tuple[PositiveInt, ...] = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: float = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    norm_num_groups: PositiveInt = 32
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    cross_attention_dim: PositiveInt | tuple[PositiveInt, ...] = 1280
    transformer_layers_per_block: PositiveInt | tuple[Depth, ...] = 1
    reverse_transformer_layers_per_block: tuple[Depth, ...] | None = None
    encoder_hid_dim: PositiveInt | None = None
    encoder_hid_dim_type: Literal["text_proj"] | None = None
    attention_head_dim: PositiveInt | tuple[PositiveInt, ...] = 8
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    use_linear_projection: bool = False
    class_embed_type: Literal["timestep", "identity", "projection"] | None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: PositiveInt | None = None
    num_class_embeds: PositiveInt | None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    resnet_skip_time_act: Literal[False] = False
    resnet_out_scale_factor: float = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: PositiveInt | None = None
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    time_cond_proj_dim: PositiveInt | None = None
    conv_in_kernel: PositiveInt = 3
    conv_out_kernel: PositiveInt = 3
    projection_class_embeddings_input_dim: PositiveInt | None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    mid_block_only_cross_attention: Literal[False] | None = None
    cross_attention_norm: None = None
    addition_embed_type_num_heads: int = 64

    @property
    def levels(self) -> int:
        """How many sizes of map there are."""
        return len(self.block_out_channels)

    @property
    def time_channels(self) -> int:
        """The width of the time embedding that every block is given."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def text_channels(self) -> int:
        """The width of the hidden states that a call is given."""
        width: int = self.encoder_hid_dim or self.per_level(self.cross_attention_dim)[0]
        return width

    def per_level(self, value: Any) -> tuple[Any, ...]:
        """`value` for each level, from the first to the last."""
        return value if isinstance(value, tuple) else (value,) * self.levels

    def down_depths(self, level: int) -> tuple[int, ...]:
        """The transformers' depths behind the residual blocks of a level on the way down."""
        return _depths(
            self.per_level(self.transformer_layers_per_block)[level], self.per_level(self.layers_per_block)[level]
        )

    def up_depths(self, level: int) -> tuple[int, ...]:
        """The same on the way up, where a level has one block more."""
        reverse = self.reverse_transformer_layers_per_block or self.per_level(self.transformer_layers_per_block)[::-1]
        return _depths(reverse[self.levels - 1 - level], self.per_level(self.layers_per_block)[level] + 1)

    @model_validator(mode="after")
    def _fits_together(self) -> "UNet2DConditionConfig":
        self._check_levels()
        self._check_widths()
        self._check_depths()
        self._check_conditions()
        return self

    def _check_levels(self) -> None:
        lists: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "block_out_channels", "down_block_types", "up_block_types", "only_cross_attention", "layers_per_block",
                "cross_attention_dim", "transformer_layers_per_block", "reverse_transformer_layers_per_block",
                "attention_head_dim",
            )
        }  # fmt: skip
        counts = {name: len(value) for name, value in lists.items() if isinstance(value, tuple)}
        if len(set(counts.values())) > 1:
            described = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"every level needs one of each, but {described}")
        if not self.mid_block_scale_factor:
            raise ValueError("'mid_block_scale_factor' divides the middle block's sums and cannot be 0")
        if self.resnet_out_scale_factor != 1:
            raise ValueError("'resnet_out_scale_factor' must be 1, as no block of this network reads another")

    def _check_widths(self) -> None:
        for width, heads, down, up in zip(
            self.block_out_channels,
            self.per_level(self.attention_head_dim),
            self.down_block_types,
            self.up_block_types[::-1],
            strict=True,
        ):
            if width % self.norm_num_groups:
                raise ValueError(
                    f"'block_out_channels' must be multiples of 'norm_num_groups' {self.norm_num_groups}, got {width}"
                )
            attends = "CrossAttn" in down + up or (width == self.block_out_channels[-1] and self._mid_attends)
            if attends and width % heads:
                raise ValueError(f"'attention_head_dim' {heads}, a number of heads, must divide the {width} channels")
        for name in ("conv_in_kernel", "conv_out_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name!r} must be odd, for the map to keep its size, got {getattr(self, name)}")
        if self.block_out_channels[0] // 2 == self.freq_shift:
            raise ValueError(f"'freq_shift' {self.freq_shift} leaves a positional time embedding no frequencies")

    @property
    def _mid_attends(self) -> bool:
        return self.mid_block_type == "UNetMidBlock2DCrossAttn"

    def _check_depths(self) -> None:
        depths, reverse = self.transformer_layers_per_block, self.reverse_transformer_layers_per_block
        nested = isinstance(depths, tuple) and any(isinstance(depth, tuple) for depth in depths)
        if nested and reverse is None:
            raise ValueError(
                "'transformer_layers_per_block' with a list for a level needs 'reverse_transformer_layers_per_block' "
                "for the way up, where a level has one block more"
            )
        for level, count in enumerate(self.per_level(self.layers_per_block)):
            for name, found, wanted in (
                ("transformer_layers_per_block", self.down_depths(level), count),
                ("reverse_transformer_layers_per_block", self.up_depths(level), count + 1),
            ):
                if len(found) != wanted:
                    raise ValueError(f"{name!r} needs {wanted} depths for level {level}, got {list(found)}")

    def _check_conditions(self) -> None:
        if self.class_embed_type is not None and self.num_class_embeds is not None:
            raise ValueError(
                f"'num_class_embeds' is for learned classes, which 'class_embed_type' {self.class_embed_type!r} "
                "excludes; give one of them"
            )
        projected = self.class_embed_type == "projection" or self.addition_embed_type == "text_time"
        if projected and self.projection_class_embeddings_input_dim is None:
            kind = self.addition_embed_type or self.class_embed_type
            raise ValueError(f"{kind!r} needs 'projection_class_embeddings_input_dim', the width of what it projects")
        if self.addition_embed_type == "text_time" and self.addition_time_embed_dim is None:
            raise ValueError("'text_time' needs 'addition_time_embed_dim', the width of each number's waves")
        if self.encoder_hid_dim_type is not None and self.encoder_hid_dim is None:
            raise ValueError(f"{self.encoder_hid_dim_type!r} needs 'encoder_hid_dim', the width of the hidden states")


def _depths(depth: Depth, count: int) -> tuple[int, ...]:
    return depth if isinstance(depth, tuple) else (depth,) * count
