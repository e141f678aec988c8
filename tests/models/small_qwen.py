"""A small `QwenImageTransformer2DModel` and the reference's, with the same weights."""

import math

import diffusers
import torch

from calotype.models.qwen_image import QwenImageTransformer2DModel

SMALL = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}
DRAWN, BESIDE = (1, 4, 6), (1, 3, 5)


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the ones of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.QwenImageTransformer2DModel(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = QwenImageTransformer2DModel(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(grids, batch=1, words=7):
    torch.manual_seed(1)
    tokens = sum(map(math.prod, grids))
    return torch.randn(batch, tokens, 16), torch.randn(batch, words, 20)


def assert_equal(ours, theirs):
    assert torch.isfinite(theirs).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
