"""Large maps in strips: equal to the layers one after the other, and never there as a whole between them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from calotype.models.autoencoder_kl import AutoencoderKL
from calotype.nn import convolution, normalization, strips
from calotype.nn.convolution import Conv2d
from calotype.nn.strips import doubled_conv, normed_conv


@pytest.fixture
def small_strips(monkeypatch):
    monkeypatch.setattr(strips, "_STRIP", 64)
    monkeypatch.setattr(normalization, "_SUMMED", 16)
    monkeypatch.setattr(convolution, "_MANY_PIXELS", 1)


def layers(channels=8, out=6):
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(4, channels), nn.Conv2d(channels, out, 3, padding=1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, conv


def watched(conv):
    """How many rows the convolution sees in each call."""
    rows = []
    conv.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[2]))
    return rows


@pytest.mark.parametrize("size", [(9, 5), (4, 7), (16, 16), (9, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("small_strips")
@torch.no_grad()
def test_a_normed_convolution(size, layout):
    norm, conv = layers()
    x = (torch.randn(2, 8, *size) * 3 + 7).contiguous(memory_format=layout)
    before, expected = x.clone(), conv(functional.silu(norm(x)))
    rows = watched(conv)
    torch.testing.assert_close(normed_conv(x, norm, functional.silu, conv), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)
    assert max(rows) <= 6
    carried = torch.randn_like(expected)
    wanted = carried + expected
    both = normed_conv(x, norm, functional.silu, conv, added_to=carried)
    torch.testing.assert_close(both, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 5), (4, 7), (6, 6)])
@pytest.mark.usefixtures("small_strips")
@torch.no_grad()
def test_a_doubled_convolution(size):
    _, conv = layers()
    x = torch.randn(2, 8, *size)
    expected = conv(functional.interpolate(x, scale_factor=2.0))
    rows = watched(conv)
    torch.testing.assert_close(doubled_conv(x, conv), expected, rtol=1e-5, atol=1e-5)
    assert max(rows) <= 12


@pytest.mark.parametrize("size", [(9, 5), (4, 7), (6, 6)])
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.usefixtures("small_strips")
@torch.no_grad()
def test_a_doubled_convolution_the_short_way(size, hooked, monkeypatch):
    """Of the map itself, unless something is added to what the layer makes of its input, such as an adapter's part."""
    torch.manual_seed(0)
    conv = Conv2d(8, 6, 3, padding=1)
    x = torch.randn(2, 8, *size)
    expected = conv(functional.interpolate(x, scale_factor=2.0))
    if hooked:
        conv.register_forward_hook(lambda _, given, out: out + given[0][:, :1])
        expected = expected + functional.interpolate(x[:, :1], scale_factor=2.0)
    short = []
    monkeypatch.setattr(
        convolution, "of_doubled", lambda *given, real=convolution.of_doubled: short.append(1) or real(*given)
    )
    torch.testing.assert_close(doubled_conv(x, conv), expected, rtol=1e-5, atol=1e-5)
    assert bool(short) is not hooked


@pytest.mark.usefixtures("small_strips")
def test_with_gradients_layers_follow_one_another():
    norm, conv = layers()
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    expected = conv(functional.silu(norm(x)))
    rows = watched(conv)
    torch.testing.assert_close(normed_conv(x, norm, functional.silu, conv), expected)
    assert rows == [16]


@torch.no_grad()
def test_an_autoencoder_gives_the_same_in_strips(monkeypatch):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).eval()
    z, pictures = torch.randn(2, 4, 12, 10), torch.rand(2, 3, 24, 20)
    whole = vae.decode(z).sample, vae.encode(pictures).latent_dist.mean
    monkeypatch.setattr(strips, "_STRIP", 256)
    in_strips = vae.decode(z).sample, vae.encode(pictures).latent_dist.mean
    for ours, expected in zip(in_strips, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
