"""What describes an `AutoencoderKL`."""

from typing import Annotated, Literal

from calotype.described import Field, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class AutoencoderKLConfig(NetworkConfig):
    """What describes an `AutoencoderKL`: the fields and defaults of the published `config.json` files.

    `scaling_factor`, `shift_factor`, `latents_mean` and `latents_std` say how a denoiser scales the latents; the
    network itself neither applies nor undoes them. `force_upcast` says that its activations do not fit into float16.
    `sample_size` is the size trained with; any other is taken.
    """

    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64,)
    layers_per_block: PositiveInt = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: PositiveInt = 4
    norm_num_groups: PositiveInt = 32
    sample_size: PositiveInt = 32
    scaling_factor: Annotated[float, Field(gt=0)] = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def downscale(self) -> int:
        """How many pixels wide and high a latent is."""
        return 1 << (len(self.block_out_channels) - 1)

    @model_validator(mode="after")
    def _fits_together(self) -> "AutoencoderKLConfig":
        counts = {
            name: len(getattr(self, name)) for name in ("block_out_channels", "down_block_types", "up_block_types")
        }
        if len(set(counts.values())) > 1:
            described = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"every level needs one of each, but {described}")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"'block_out_channels' must be multiples of 'norm_num_groups' {self.norm_num_groups}, got {width}"
                )
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(f"{name!r} needs {self.latent_channels} values, one a channel, got {len(values)}")
        return self
