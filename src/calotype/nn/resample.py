"""Halving and doubling of feature maps."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.nn.convolution import Conv2d, doubled


class Downsample2D(nn.Module):
    """Halve height and width by a strided 3x3 convolution.

    With `padding=0` the map is padded by one row and one column of zeros, below and on the right only: the convention
    of the original DDPM networks.
    """

    def __init__(self, channels: int, *, padding: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding)
        self.pads_one_side = padding == 0

    def forward(self, x: Float[Tensor, "b c h w"], temb: Tensor | None = None) -> Float[Tensor, "b c h2 w2"]:
        """`temb` is not used; a block may have a `ResnetBlock2D` in this place, which takes it."""
        half: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)) if self.pads_one_side else x)
        return half


class Upsample2D(nn.Module):
    """Double height and width by repeating pixels, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c h w"], temb: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c h2 w2"]:
        """`temb` is not used; a block may have a `ResnetBlock2D` in this place, which takes it.

        `size` is the height and width to reach where they are not twice those of `x`.
        """
        height, width = x.shape[2:]
        if size is None or size == (2 * height, 2 * width):
            return doubled(x, self.conv)
        nearly: Tensor = self.conv(functional.interpolate(x, size=size, mode="nearest"))
        return nearly


class Resample(nn.Module):
    """Halve or double height and width without parameters.

    Args:
        direction: `"down"` or `"up"`.
        smooth: filter with the binomial kernel (1, 3, 3, 1), against aliasing ("Making Convolutional Networks
            Shift-Invariant Again"), instead of averaging and repeating pixels.
    """

    kernel: Tensor | None

    def __init__(self, direction: Literal["down", "up"], *, smooth: bool = False) -> None:
        super().__init__()
        self.direction = direction
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(row, row) / (64.0 if direction == "down" else 16.0)
        self.register_buffer("kernel", kernel[None, None] if smooth else None, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.kernel is None:
            if self.direction == "down":
                return functional.avg_pool2d(x, 2)
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        batch, channels, height, width = x.shape
        maps = x.reshape(batch * channels, 1, height, width)
        if self.direction == "down":
            return functional.conv2d(maps, self.kernel, stride=2, padding=1).view(batch, channels, height // 2, -1)
        return functional.conv_transpose2d(maps, self.kernel, stride=2, padding=1).view(
            batch, channels, 2 * height, 2 * width
        )
