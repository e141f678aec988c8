"""The layers of the network, for single pictures `[b, c, h, w]` and for videos `[b, c, frames, h, w]`.

A convolution over time sees a frame and those before it, of which there are none before the first: for a picture by
itself only the last slice of its weight counts, and it is an ordinary convolution. A video goes through in pieces; what
a layer has to know of the frames before a piece is kept in a `Past` that belongs to the call.
"""

from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from calotype.nn.activations import activated, added
from calotype.nn.inference import infers
from calotype.nn.strips import doubled_conv

Past: TypeAlias = dict[nn.Module, Tensor]
"""The last frames that each layer saw."""

_TINY = 1e-12


class CausalConv3d(nn.Conv3d):
    """A convolution over frames, rows and columns, in which no frame sees a later one. It keeps height and width."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=(stride, 1, 1))
        self.around = (kernel[1] // 2, kernel[2] // 2)

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c2 *size2"]:
        if x.ndim == 4:
            return functional.conv2d(x, self.weight[:, :, -1], self.bias, padding=self.around)
        seen = self.kernel_size[0] - 1
        if seen:
            x = torch.cat((self._before(x, seen, past), x), dim=2)
            if past is not None:
                past[self] = x[:, :, -seen:]
        return functional.conv3d(x, self.weight, self.bias, self.stride, (0, *self.around))

    def _before(self, x: Tensor, count: int, past: Past | None) -> Tensor:
        known = None if past is None else past.get(self)
        return x.new_zeros(*x.shape[:2], count, *x.shape[3:]) if known is None else known


class ChannelNorm(nn.Module):
    """Every pixel's channels divided by their length, times the root of their number ("Root Mean Square Layer
    Normalization", over channels). `axes` is the number of trailing axes of the weight, as files have it."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * axes))

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        exact = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        length = torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min(_TINY)
        weight = (self.gamma * len(self.gamma) ** 0.5).view(-1, *(1,) * (x.ndim - 2))
        unit: Tensor = (exact / length).to(x.dtype)
        return unit.mul_(weight) if infers() else unit * weight


class Resnet(nn.Module):
    """Two normalised convolutions, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_channels, 3)
        self.conv1 = CausalConv3d(in_channels, out_channels, (3, 3, 3))
        self.norm2 = ChannelNorm(out_channels, 3)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(out_channels, out_channels, (3, 3, 3))
        self.conv_shortcut = CausalConv3d(in_channels, out_channels, (1, 1, 1)) if in_channels != out_channels else None

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c2 *size"]:
        h = self.conv1(activated(functional.silu, self.norm1(x)), past)
        h = self.dropout(activated(functional.silu, self.norm2(h)))
        return added(self.conv2(h, past), x if self.conv_shortcut is None else self.conv_shortcut(x))


class PixelAttention(nn.Module):
    """Attention among the pixels of a frame, with one head, added to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c *size"]:
        """`past` is not used: frames do not see one another."""
        frames = _as_pictures(x)
        count, channels, height, width = frames.shape
        pixels = self.to_qkv(self.norm(frames)).view(count, 1, 3 * channels, height * width).transpose(2, 3)
        query, key, value = pixels.contiguous().chunk(3, dim=-1)
        seen = scaled_dot_product_attention(query, key, value)
        h = self.proj(seen.squeeze(1).transpose(1, 2).reshape(count, channels, height, width))
        return added(_as_video(h, x), x)


class Downsample(nn.Module):
    """Half the height and width; with `time`, and after the first frame, half the frames as well."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), stride=2) if time else None

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c *size2"]:
        x = _as_video(self.resample(_as_pictures(x)), x)
        if self.time_conv is None or past is None:
            return x
        before = past.get(self)
        past[self] = x[:, :, -1:]
        if before is None:
            return x  # the first frame stands for itself
        conv, whole = self.time_conv, torch.cat((before, x), dim=2)
        halved: Tensor = functional.conv3d(whole, conv.weight, conv.bias, conv.stride)
        return halved


class Upsample(nn.Module):
    """Twice the height and width at half the channels; with `time`, and after the first frame, twice the frames."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleList([nn.Identity(), nn.Conv2d(channels, channels // 2, 3, padding=1)])
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if time else None

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c2 *size2"]:
        if self.time_conv is not None and past is not None:
            x = self._doubled(x, self.time_conv, past)
        return _as_video(doubled_conv(_as_pictures(x), cast(nn.Conv2d, self.resample[1])), x)

    def _doubled(self, x: Tensor, time_conv: CausalConv3d, past: Past) -> Tensor:
        if self not in past:
            past[self] = x[:, :, :0]  # the first frame stands for itself, and later ones do not see it here
            return x
        batch, channels, frames, height, width = x.shape
        both: Tensor = time_conv(x, past).view(batch, 2, channels, frames, height, width)
        return both.permute(0, 2, 3, 1, 4, 5).reshape(batch, channels, 2 * frames, height, width)


class MidBlock(nn.Module):
    """Residual block, attention, residual block, on the smallest maps."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(channels)])
        self.resnets = nn.ModuleList(Resnet(channels, channels, dropout) for _ in range(2))

    def forward(self, x: Float[Tensor, "b c *size"], past: Past | None = None) -> Float[Tensor, "b c *size"]:
        x = self.attentions[0](self.resnets[0](x, past))
        out: Tensor = self.resnets[1](x, past)
        return out


def _as_pictures(x: Float[Tensor, "b c *size"]) -> Float[Tensor, "n c h w"]:
    """The frames of a video as pictures; pictures as they are."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


def _as_video(pictures: Float[Tensor, "n c h w"], like: Tensor) -> Float[Tensor, "b c *size"]:
    """Pictures as the video `like`, of which they were the frames; as they are where that were pictures."""
    if like.ndim == 4:
        return pictures
    return pictures.view(like.shape[0], like.shape[2], *pictures.shape[1:]).transpose(1, 2)
