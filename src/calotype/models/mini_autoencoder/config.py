"""What describes a `MiniAutoencoderKL`."""

from typing import Self

from calotype.described import Field, PositiveFloat, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class MiniAutoencoderConfig(NetworkConfig):
    """Fields of `MiniAutoencoderKL`. The defaults are the embedded model's."""

    latent_channels: PositiveInt = 16
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 96), min_length=1)
    """Width of each level, from the finest. Level i works at 1 / 2**(i + 1) of the picture's side."""
    encoder_layers_per_block: PositiveInt = 1
    decoder_layers_per_block: PositiveInt = 2
    detail_channels: PositiveInt = 16
    """Width of the last layers of the decoder, which work at the picture's full size."""
    latents_mean: tuple[float, ...] = ()
    """Mean of every latent channel over the training pictures; empty for zeros."""
    latents_std: tuple[PositiveFloat, ...] = ()
    """Standard deviation of every latent channel over the training pictures; empty for ones."""

    @model_validator(mode="after")
    def _one_statistic_per_channel(self) -> Self:
        for name, values in (("latents_mean", self.latents_mean), ("latents_std", self.latents_std)):
            if len(values) not in (0, self.latent_channels):
                raise ValueError(f"{name} must have {self.latent_channels} values (latent_channels), got {len(values)}")
        return self

    @property
    def downscale(self) -> int:
        """How many pixels of a side make one latent of a side."""
        return int(2 ** len(self.block_out_channels))
