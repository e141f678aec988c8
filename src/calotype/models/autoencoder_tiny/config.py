"""What describes an `AutoencoderTiny`."""

from typing import Annotated, Literal

from calotype.described import Field, NonNegativeInt, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig

Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class AutoencoderTinyConfig(NetworkConfig):
    """What describes an `AutoencoderTiny`: the fields and defaults of the published `config.json` files.

    `latent_magnitude` and `latent_shift` are for writing latents as pictures: `latents / (2 * magnitude) + shift` is
    about in [0, 1]. `force_upcast` is there because files hold it; the network works in float16.
    """

    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    encoder_block_out_channels: Widths = (64, 64, 64, 64)
    decoder_block_out_channels: Widths = (64, 64, 64, 64)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "relu"
    upsample_fn: Literal["nearest"] = "nearest"
    latent_channels: PositiveInt = 4
    upsampling_scaling_factor: PositiveInt = 2
    num_encoder_blocks: tuple[NonNegativeInt, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[NonNegativeInt, ...] = (3, 3, 3, 1)
    latent_magnitude: Annotated[float, Field(gt=0)] = 3
    latent_shift: float = 0.5
    force_upcast: bool = False
    scaling_factor: Annotated[float, Field(gt=0)] = 1.0
    shift_factor: float = 0.0
    block_out_channels: tuple[PositiveInt, ...] | None = None

    @property
    def downscale(self) -> int:
        """How many pixels wide and high a latent is."""
        return 1 << (len(self.encoder_block_out_channels) - 1)

    @model_validator(mode="after")
    def _fits_together(self) -> "AutoencoderTinyConfig":
        for half in ("encoder", "decoder"):
            widths, counts = getattr(self, f"{half}_block_out_channels"), getattr(self, f"num_{half}_blocks")
            if len(widths) != len(counts):
                raise ValueError(
                    f"every level needs one of each, but {half}_block_out_channels has {len(widths)} and "
                    f"num_{half}_blocks {len(counts)}"
                )
            if len(set(widths)) > 1:
                raise ValueError(f"'{half}_block_out_channels' must be all the same, as no layer changes the width")
        if len(self.encoder_block_out_channels) != len(self.decoder_block_out_channels):
            raise ValueError("'encoder_block_out_channels' and 'decoder_block_out_channels' need as many levels")
        if self.upsampling_scaling_factor != 2:
            raise ValueError("'upsampling_scaling_factor' must be 2, which undoes the encoder's halvings")
        if self.block_out_channels not in (None, self.decoder_block_out_channels):
            raise ValueError("'block_out_channels' must be the same as 'decoder_block_out_channels' where it is given")
        return self
