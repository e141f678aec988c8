"""Tiles: where they lie, that blending changes nothing that tiles agree on, and how much memory they take."""

import itertools
import re

import pytest
import torch
from torch.nn import functional

from calotype.errors import InputError
from calotype.models.autoencoder_kl import AutoencoderKL
from calotype.nn.tiling import decode_tiled, encode_tiled, starts


def enlarged(z):
    return functional.interpolate(z, scale_factor=4, mode="nearest")


def shrunk(x):
    return functional.avg_pool2d(x, 4)


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (8, 8, 2, [0]),
        (5, 8, 2, [0]),
        (9, 8, 2, [0, 1]),
        (14, 8, 2, [0, 6]),
        (15, 8, 2, [0, 4, 7]),
        (128, 64, 16, [0, 32, 64]),
        (16, 8, 0, [0, 8]),
    ],
)
def test_tiles_cover_a_side(length, tile, overlap, expected):
    assert starts(length, tile, overlap) == expected


@pytest.mark.parametrize("length", range(9, 60))
def test_tiles_overlap_enough_and_reach_the_end(length):
    begins = starts(length, 8, 3)
    assert begins[0] == 0
    assert begins[-1] + 8 == length
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(begins))
    assert len(begins) < 2 or (len(begins) - 1) * 5 < length - 3 + 5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (13, 30), (3, 17), (20, 8)])
def test_what_does_not_look_around_is_not_changed_by_tiles(height, width):
    z = torch.randn(2, 3, height, width)
    sizes = set()

    def noted(work):
        def call(x):
            sizes.add(tuple(x.shape[2:]))
            return work(x)

        return call

    tiled = decode_tiled(noted(enlarged), z, downscale=4, tile=8, overlap=3)
    torch.testing.assert_close(tiled, enlarged(z))
    assert sizes == {(min(height, 8), min(width, 8))}
    pixels = torch.randn(2, 3, 4 * height, 4 * width)
    sizes.clear()
    torch.testing.assert_close(encode_tiled(noted(shrunk), pixels, downscale=4, tile=8, overlap=3), shrunk(pixels))
    assert sizes == {(4 * min(height, 8), 4 * min(width, 8))}


def test_where_tiles_disagree_the_change_is_gradual():
    """Two tiles of other colours: from one to the other in even steps over the overlap."""
    colours = iter((0.0, 1.0))
    out = decode_tiled(
        lambda z: enlarged(z) * 0 + next(colours), torch.zeros(1, 1, 8, 12), downscale=4, tile=8, overlap=4
    )
    line = out[0, 0, 0]
    assert line[:16].abs().max() == 0
    assert (line[32:] - 1).abs().max() == 0
    torch.testing.assert_close(line[16:32], (torch.arange(16) + 0.5) / 16)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()


@torch.no_grad()
def test_an_autoencoder_in_tiles(vae):
    z = torch.randn(1, 4, 24, 20)
    tiled = decode_tiled(lambda part: vae.decode(part).sample, z, downscale=2, tile=16, overlap=8)
    whole = vae.decode(z).sample
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.2 * whole.abs().mean()
    pixels = torch.rand(1, 3, 48, 40)
    means = encode_tiled(lambda part: vae.encode(part).latent_dist.mode(), pixels, downscale=2, tile=16, overlap=8)
    assert means.shape == (1, 4, 24, 20)
    assert torch.equal(decode_tiled(lambda part: vae.decode(part).sample, z, downscale=2, tile=24), whole)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: decode_tiled(enlarged, torch.zeros(1, 1, 9, 9), tile=8, overlap=8), "got tile 8 and overlap 8"),
        (lambda: decode_tiled(enlarged, torch.zeros(1, 1, 9, 9), tile=8, overlap=-1), "overlap -1"),
        (lambda: decode_tiled(enlarged, torch.zeros(1, 1, 9, 9), tile=8, overlap=2), "must become 64x64, got 32x32"),
        (lambda: encode_tiled(shrunk, torch.zeros(1, 1, 9, 8), downscale=4), "multiples of 4, got 9x8"),
    ],
)
def test_what_tiles_cannot_be(work, message):
    with pytest.raises(InputError, match=re.escape(message)):
        work()
