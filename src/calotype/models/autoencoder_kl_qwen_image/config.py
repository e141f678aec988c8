"""What describes an `AutoencoderKLQwenImage`."""

from typing import Annotated

from calotype.described import Field, NonNegativeInt, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig

_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


class AutoencoderKLQwenImageConfig(NetworkConfig):
    """What describes an `AutoencoderKLQwenImage`: the fields and defaults of the published `config.json` files.

    `latents_mean` and `latents_std` say how a denoiser scales the latents; the network itself neither applies nor
    undoes them. `temperal_downsample` is spelled as files spell it.
    """

    base_dim: PositiveInt = 96
    z_dim: PositiveInt = 16
    """Channels of the latents."""
    dim_mult: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4, 4)
    """Width of each level, as a multiple of `base_dim`."""
    num_res_blocks: NonNegativeInt = 2
    attn_scales: Annotated[tuple[float, ...], Field(max_length=0)] = ()
    """There because files hold it; another value names a variant that is not built."""
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    """Which halvings of height and width halve the frames as well."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    input_channels: PositiveInt = 3
    """Channels of the pictures: 4 with transparency."""
    latents_mean: tuple[float, ...] = _MEAN
    latents_std: tuple[Annotated[float, Field(gt=0)], ...] = _STD

    @property
    def downscale(self) -> int:
        """How many pixels wide and high a latent is."""
        return 1 << (len(self.dim_mult) - 1)

    @property
    def frames_per_latent(self) -> int:
        """How many frames a latent stands for, but for the first, which stands for one."""
        return 1 << sum(self.temperal_downsample)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents, by the name that other autoencoders have for it."""
        return self.z_dim

    @model_validator(mode="after")
    def _fits_together(self) -> "AutoencoderKLQwenImageConfig":
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"'temperal_downsample' needs {len(self.dim_mult) - 1} values, one between two levels, got "
                f"{len(self.temperal_downsample)}"
            )
        if any(self.base_dim * multiple % 2 for multiple in self.dim_mult[1:]):
            raise ValueError("widths of all levels but the first ('base_dim' times 'dim_mult') must be even")
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if len(values) != self.z_dim:
                raise ValueError(f"{name!r} needs {self.z_dim} values, one a channel, got {len(values)}")
        return self
