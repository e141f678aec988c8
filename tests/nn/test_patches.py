"""Latents as tokens and back."""

import pytest
import torch
from diffusers import QwenImagePipeline

from calotype.errors import InputError
from calotype.nn.patches import patched, unpatched


def test_tokens_are_those_of_the_reference():
    latents = torch.randn(2, 3, 8, 12)
    tokens = patched(latents)
    assert tokens.grid == (1, 4, 6)
    assert torch.equal(tokens.tokens, QwenImagePipeline._pack_latents(latents, 2, 3, 8, 12))
    assert torch.equal(unpatched(tokens.tokens, tokens.grid), latents)


def test_frames_follow_one_another():
    video = torch.randn(1, 3, 2, 4, 4)
    tokens = patched(video, 1)
    assert tokens.grid == (2, 4, 4)
    assert torch.equal(tokens.tokens[:, 16:], patched(video[:, :, 1], 1).tokens)
    assert torch.equal(unpatched(tokens.tokens, tokens.grid, 1), video)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="multiples of 2, got 5x4"):
        patched(torch.zeros(1, 3, 5, 4))
    with pytest.raises(
        InputError, match=r"latents must be \[b, c, h, w\] or \[b, c, frames, h, w\], got \[1, 3, 1, 1, 4, 4\]"
    ):
        patched(torch.zeros(1, 3, 1, 1, 4, 4))
    with pytest.raises(InputError, match="a grid of 1x2x2 has 4 tokens, got 5"):
        unpatched(torch.zeros(1, 5, 4), (1, 2, 2))
    with pytest.raises(InputError, match="a multiple of 4 wide, got 6"):
        unpatched(torch.zeros(1, 4, 6), (1, 2, 2))
