"""What describes a `UNet2DModel`."""

from typing import Annotated, Any, Literal

from calotype.described import BeforeValidator, Field, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig

DownBlockType = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlockType = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
Activation = Literal["silu", "swish", "mish", "gelu", "relu"]


def _without_old_prefix(name: Any) -> Any:
    return name.removeprefix("UNetRes") if isinstance(name, str) else name


class UNet2DConfig(NetworkConfig):
    """What describes a `UNet2DModel`: the fields and defaults of the published `config.json` files.

    `sample_size` and `num_train_timesteps` are what the network was trained with. Only a learned time embedding
    depends on the latter, and nothing on the former: any size that the blocks can halve is taken.
    """

    sample_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "fourier", "learned"] = "positional"
    time_embedding_dim: PositiveInt | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[Annotated[DownBlockType, BeforeValidator(_without_old_prefix)], ...] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: tuple[Annotated[UpBlockType, BeforeValidator(_without_old_prefix)], ...] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (224, 448, 672, 896)
    layers_per_block: PositiveInt = 2
    mid_block_scale_factor: float = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    act_fn: Activation = "silu"
    attention_head_dim: PositiveInt | None = 8
    norm_num_groups: PositiveInt | None = 32
    attn_norm_num_groups: PositiveInt | None = None
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal["timestep", "identity"] | None = None
    num_class_embeds: PositiveInt | None = None
    num_train_timesteps: PositiveInt | None = None

    @property
    def time_channels(self) -> int:
        """The width of the time embedding that every block is given."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @model_validator(mode="after")
    def _fits_together(self) -> "UNet2DConfig":
        counts = {
            name: len(getattr(self, name)) for name in ("block_out_channels", "down_block_types", "up_block_types")
        }
        if len(set(counts.values())) > 1:
            described = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"every level needs one of each, but {described}")
        if not self.mid_block_scale_factor:
            raise ValueError("'mid_block_scale_factor' divides the middle block's sums and cannot be 0")
        self._check_time()
        self._check_widths()
        self._check_skips()
        return self

    def _check_time(self) -> None:
        if self.time_embedding_type == "learned" and self.num_train_timesteps is None:
            raise ValueError("a 'learned' time embedding needs 'num_train_timesteps', the number of its rows")
        if self.time_embedding_type == "positional" and self.block_out_channels[0] // 2 == self.freq_shift:
            raise ValueError(f"'freq_shift' {self.freq_shift} leaves a positional time embedding no frequencies")
        if self.class_embed_type is not None and self.num_class_embeds is not None:
            raise ValueError(
                f"'num_class_embeds' is for learned classes, which 'class_embed_type' {self.class_embed_type!r} "
                "excludes; give one of them"
            )
        if self.class_embed_type == "timestep" and self.time_embedding_type == "learned":
            raise ValueError("'class_embed_type' 'timestep' needs a 'positional' or 'fourier' time embedding")

    def _check_widths(self) -> None:
        plain = [kind for kind in (*self.down_block_types, *self.up_block_types) if "Skip" not in kind]
        if self.norm_num_groups is None and plain:
            raise ValueError(f"{plain[0]!r} needs 'norm_num_groups'; only blocks with 'Skip' do without")
        for width in self.block_out_channels:
            if width % (self.norm_num_groups or 1):
                raise ValueError(
                    f"'block_out_channels' must be multiples of 'norm_num_groups' {self.norm_num_groups}, got {width}"
                )
        attends = self.add_attention and self.mid_block_type
        if attends and self.block_out_channels[-1] % (self.attn_norm_num_groups or 1):
            raise ValueError(
                f"'attn_norm_num_groups' {self.attn_norm_num_groups} must divide the last of 'block_out_channels', "
                f"{self.block_out_channels[-1]}"
            )
        kinds = zip(self.down_block_types, self.up_block_types[::-1], self.block_out_channels, strict=True)
        attending = [width for down, up, width in kinds if "Attn" in down or "Attn" in up]
        narrowest = min([*attending, *([self.block_out_channels[-1]] if attends else [])], default=None)
        if narrowest is not None and self.attention_head_dim is not None and self.attention_head_dim > narrowest:
            raise ValueError(
                f"'attention_head_dim' {self.attention_head_dim} is wider than a level with attention, {narrowest}"
            )

    def _check_skips(self) -> None:
        skips = [kind for kind in (*self.down_block_types, *self.up_block_types) if "Skip" in kind]
        if not skips:
            return
        if len(skips) < 2 * len(self.block_out_channels):
            raise ValueError(f"{skips[0]!r} hands an image from level to level: every block must be a 'Skip' block")
        for width in self.block_out_channels:
            if width % 32:
                raise ValueError(f"'Skip' blocks need 'block_out_channels' in multiples of 32, got {width}")
        if (self.in_channels, self.out_channels) != (3, 3):
            raise ValueError(
                f"{skips[0]!r} adds images of 3 channels, got in_channels {self.in_channels} and out_channels "
                f"{self.out_channels}"
            )
