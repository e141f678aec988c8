"""What describes a `T2IAdapter`."""

from typing import Annotated, Literal

from calotype.described import Field, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class T2IAdapterConfig(NetworkConfig):
    """What describes a `T2IAdapter`: the fields and defaults of the published `config.json` files.

    `channels` are the widths of the maps, `downscale_factor` is how many times smaller than the picture the first is.
    A full adapter halves the map before every other one, a light one too and once more, and one for XL only before the
    third.
    """

    in_channels: PositiveInt = 3
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (320, 640, 1280, 1280)
    num_res_blocks: PositiveInt = 2
    downscale_factor: PositiveInt = 8
    adapter_type: Literal["full_adapter", "full_adapter_xl", "light_adapter"] = "full_adapter"

    @property
    def blocks(self) -> tuple[tuple[int, int, bool], ...]:
        """For each map how many channels come in, how many leave, and whether it is halved first."""
        widths = self.channels
        if self.adapter_type == "full_adapter_xl":
            return tuple((widths[max(i - 1, 0)], width, i == 2) for i, width in enumerate(widths))
        first = widths[0] if self.adapter_type == "full_adapter" else self.in_channels * self.downscale_factor**2
        befores = (first, *widths) if self.adapter_type == "light_adapter" else (first, *widths[:-1])
        leaving = (*widths, widths[-1]) if self.adapter_type == "light_adapter" else widths
        return tuple((b, w, i > 0) for i, (b, w) in enumerate(zip(befores, leaving, strict=True)))

    @property
    def downscale(self) -> int:
        """What the sides of a picture must be a multiple of, for every map to be half as large as the one before."""
        return self.downscale_factor << sum(halved for _, _, halved in self.blocks)

    @model_validator(mode="after")
    def _fits_together(self) -> "T2IAdapterConfig":
        if self.adapter_type == "full_adapter_xl" and len(set(self.channels[2:])) > 1:
            raise ValueError(f"'channels' of a 'full_adapter_xl' are equal from the third on, got {self.channels}")
        if self.adapter_type == "light_adapter" and any(width < 4 for width in self.channels):
            raise ValueError(f"'channels' of a 'light_adapter' are at least 4, got {self.channels}")
        return self
