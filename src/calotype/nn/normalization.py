"""Normalisations of networks, which keep their digits whatever the layout in memory and the types."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.nn.inference import infers

_SUMMED = 1 << 12
"""How many pixels are summed in float32, about."""


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, but for maps in inference on a processor whose channels lie side by side in memory.

    There the library takes one sum in float32 over all pixels, which loses digits: of a map of 128x128 with a mean of
    10 and a spread of 1, three of seven. `affine` takes about the same time.
    """

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        if not _loses_digits(input):
            return super().forward(input)
        scale, shift = affine(input, self)
        return torch.addcmul(shift, input, scale)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm`, but for values of another type than the weight, as autocast gives them to it.

    They are normalised in the wider of both types, and come out in their own: the library computes the same and warns.
    """

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        if self.weight is None or x.dtype == self.weight.dtype:
            return super().forward(x)
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        made = F.rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.eps)
        return made.to(x.dtype)


def _loses_digits(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and infers()
        and x.ndim == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def affine(x: Float[Tensor, "b c h w"], norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """What the normalisation multiplies each channel with and adds to it, `[b, c, 1, 1]` each.

    Sums over many pixels lose digits in float32, so that they are taken over few rows at a time and then together in
    float64.
    """
    batch, channels, height, width = x.shape
    rows = max(_SUMMED // width, 1)
    parts = [_moments(x[:, :, top : top + rows]) for top in range(0, height, rows)]
    counts = torch.tensor([min(rows, height - top) for top in range(0, height, rows)], dtype=torch.float64)
    means, variances = (
        torch.stack(each).double().view(len(parts), batch, norm.num_groups, -1) for each in zip(*parts, strict=True)
    )
    weights = (counts / counts.sum())[:, None, None, None] / means.shape[-1]
    mean = (weights * means).sum((0, 3))
    variance = (weights * (variances + (means - mean[None, ..., None]).square())).sum((0, 3))
    inverse = (variance + norm.eps).rsqrt()
    scale = inverse.repeat_interleave(means.shape[-1], 1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(means.shape[-1], 1) * scale
    return scale.to(x.dtype).view(batch, channels, 1, 1), shift.to(x.dtype).view(batch, channels, 1, 1)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's mean and variance, `[b, c]` each."""
    stats = [torch.batch_norm_update_stats(item[None], None, None, 0.0) for item in x]
    return torch.stack([mean for mean, _ in stats]), torch.stack([variance for _, variance in stats])
