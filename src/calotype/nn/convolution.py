"""The convolution of denoisers and autoencoders: PyTorch's, told what only its caller knows."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.nn.inference import infers
from calotype.nn.linear import linear

_LARGE_WEIGHT = 1 << 20
_LARGE_WEIGHT_BACK = 1 << 24
_FEW_ROWS = 160
_MANY_PIXELS = 512
_MANY_IN_TILES = 512
_WIDE = 256


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, with four differences that change no more than the order of sums.

    A vector that is the same at every pixel of every item (the time) joins the bias, which spares a pass over the map.
    On a processor, where the weight is far larger than the map, inference takes the map apart and multiplies two
    matrices: the library's convolution would spend its time on bringing the weight into a layout of its own. Where the
    map is large, kernels of 3x3 are applied to tiles of it, which takes fewer multiplications (`calotype.nn.winograd`).
    And of a map at twice its height and width, pixels repeated, only what differs is computed (`doubled`).
    """

    def forward(
        self, x: Float[Tensor, "b c h w"], shift: Float[Tensor, "1 c2"] | None = None, *, doubled: bool = False
    ) -> Tensor:
        """With `doubled`, the convolution of the map at twice its height and width, for a kernel of 3x3 that keeps the
        size: [b, c2, 2 h, 2 w]."""
        if doubled:
            return of_doubled(x, self.weight, self.bias)
        bias = self.bias
        if shift is not None:
            bias = shift.view(-1) if bias is None else bias + shift.view(-1)
        return convolved(self, x, self.weight, bias)  # read once: one that is stored packed is decoded every time


def convolved(
    layer: nn.Conv2d,
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c2 _ k k2"],
    bias: Float[Tensor, " c2"] | None,
    *,
    in_tiles: bool = True,
) -> Float[Tensor, "b c2 h2 w2"]:
    """The convolution that a layer with this weight and bias makes, in the way that is the fastest for the map.

    Tiles take memory for themselves; without `in_tiles` there are none.
    """
    if x.shape[1] == layer.in_channels:  # PyTorch's own says what does not fit
        if weight.numel() >= _LARGE_WEIGHT and _is_better_as_product(layer, x, layer.stride[0] * layer.stride[1]):
            return _as_product(layer, x, weight, bias)
        if in_tiles and x.shape[1] >= _WIDE and _is_better_in_tiles(layer, x):
            return _in_tiles(x, weight, bias)
    out: Tensor = layer._conv_forward(x, weight, bias)
    return out


def gradient_of_map(
    layer: nn.Conv2d, gradient: Float[Tensor, "b c2 h2 w2"], weight: Float[Tensor, "c2 c k k2"], shape: torch.Size
) -> Float[Tensor, "b c h w"]:
    """What a gradient of the convolution is of the map, which had this shape, in the way that is the fastest for it."""
    padding = layer.padding
    assert not isinstance(padding, str)
    if weight.numel() >= _LARGE_WEIGHT_BACK and _is_better_as_product(layer, gradient, 1):
        parts = weight.flatten(1).t() @ gradient.flatten(2)
        return functional.fold(parts, shape[2:], layer.kernel_size, padding=padding, stride=layer.stride)
    settings = layer.stride, padding, layer.dilation, False, [0, 0], layer.groups, [True, False, False]
    shape_only = gradient.new_empty(1).expand(shape)
    of_map: Tensor = torch.ops.aten.convolution_backward(gradient, shape_only, weight, None, *settings)[0]
    return of_map


def _is_better_as_product(layer: nn.Conv2d, x: Tensor, step: int) -> bool:
    """For a large weight: whether a map is small, of which one pixel in `step` counts."""
    batch, _, height, width = x.shape
    return batch * height * width // step <= _FEW_ROWS and _infers(layer, x)


def _is_better_in_tiles(layer: nn.Conv2d, x: Tensor) -> bool:
    batch, _, height, width = x.shape
    return (
        batch * height * width >= _MANY_IN_TILES
        and layer.out_channels >= _WIDE
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == (1, 1)
        and _infers(layer, x)
    )


def _infers(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether it is inference in float32 on a processor, of a plain convolution with zeros around."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and infers()
        and not torch.is_autocast_enabled("cpu")
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
    )


def _as_product(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    stride, padding, kernel = layer.stride, layer.padding, layer.kernel_size
    assert not isinstance(padding, str)
    height, width = (
        (side + 2 * pad - size) // step + 1
        for side, pad, size, step in zip(x.shape[2:], padding, kernel, stride, strict=True)
    )
    patches = functional.unfold(x, kernel, padding=padding, stride=stride)
    rows = patches.transpose(1, 2).reshape(len(x) * height * width, -1)
    out = linear(rows, weight.flatten(1), bias)
    return out.view(len(x), height, width, -1).permute(0, 3, 1, 2).contiguous()


def _in_tiles(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        from calotype.nn.compiled_winograd import convolved as whole

        out: Tensor = whole(x, weight, bias)
        return out
    from calotype.nn.winograd import convolved  # only large networks need it

    return convolved(x, weight, bias)


def doubled(x: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b c2 h2 w2"]:
    """`conv`, which keeps the size, of `x` at twice its height and width, pixels repeated.

    In inference on a processor the short way, unless it is of few pixels, for which adding up weights would take
    longest, or something is added to what the layer makes of its input.
    """
    if (
        isinstance(conv, Conv2d)
        and x.numel() // x.shape[1] >= _MANY_PIXELS
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and infers()
        and not torch.is_autocast_enabled("cpu")
        and conv.padding_mode == "zeros"
        and not conv._forward_hooks
        and not torch.compiler.is_compiling()
    ):
        short: Tensor = conv(x, doubled=True)
        return short
    out: Tensor = conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    return out


def of_doubled(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c2 c 3 3"], bias: Float[Tensor, " c2"] | None
) -> Float[Tensor, "b c2 h2 w2"]:
    """A convolution, with zeros around, of `x` at twice its height and width, pixels repeated.

    Of three rows that the kernel sees, two are the same row of `x`, and of three columns as well: which two depends on
    whether the pixel's place is even. So four kernels of 2x2, whose entries are sums of the kernel's, each give a
    quarter of the pixels, with 16 products where the repeated map takes 36.
    """
    batch, _, height, width = x.shape
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    shape = (batch, len(weight), 2 * height, 2 * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    for down, rows in enumerate(_halves(weight, 2)):
        for right, kernel in enumerate(_halves(rows, 3)):
            pairs = functional.conv2d(x, kernel, bias, padding=1)  # of every two neighbours, the zeros around included
            out[:, :, down::2, right::2] = pairs[:, :, down : down + height, right : right + width]
    return out


def _halves(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The kernels of two entries along a dimension, for even places and for odd ones."""
    first, middle, last = weight.unbind(dim)
    return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)
