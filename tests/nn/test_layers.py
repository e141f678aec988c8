"""Leaf layers by themselves: what each does that a whole network would hide."""

import pytest
import torch
from torch.nn import functional

from calotype.nn.attention import SpatialSelfAttention
from calotype.nn.resample import Downsample2D, Resample, Upsample2D
from calotype.nn.resnet import ResnetBlock2D
from calotype.nn.time import GaussianFourierTime, SinusoidalTime, TimestepEmbedding
from calotype.nn.transformer import Attention, Text


def test_sinusoidal_time():
    waves = SinusoidalTime(6)(torch.tensor([0.0, 2.0]))
    assert waves[0].tolist() == [1, 1, 1, 0, 0, 0]
    angles = 2.0 * 10000 ** -(torch.arange(3) / 3)
    torch.testing.assert_close(waves[1], torch.cat([angles.cos(), angles.sin()]))
    sines_first = SinusoidalTime(6, cos_first=False)(torch.tensor([2.0]))[0]
    assert torch.equal(sines_first, torch.cat([waves[1, 3:], waves[1, :3]]))
    assert SinusoidalTime(5)(torch.tensor([2.0]))[0, -1] == 0


def test_the_last_frequency_with_a_shift_of_one_is_the_lowest():
    assert SinusoidalTime(8, freq_shift=1).frequencies[-1].item() == pytest.approx(1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_frequencies_keep_their_precision(dtype):
    time = SinusoidalTime(64)
    before = time.frequencies.clone()
    assert torch.equal(time.to(dtype).frequencies, before)
    assert time.frequencies.dtype == torch.float32
    assert not time.state_dict()


def test_frequencies_move_with_the_network():
    assert SinusoidalTime(64).to("meta").frequencies.is_meta


def test_fourier_time_is_of_the_logarithm():
    time = GaussianFourierTime(4)
    assert time(torch.tensor([1.0]))[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert not time.weight.requires_grad
    assert list(time.state_dict()) == ["weight"]


def test_timestep_embedding_shape():
    assert TimestepEmbedding(6, 10)(torch.randn(3, 6)).shape == (3, 10)


def test_padding_on_one_side_sees_the_first_pixel_first():
    layer = Downsample2D(1, padding=0)
    with torch.no_grad():
        layer.conv.weight.zero_()[0, 0, 0, 0] = 1.0
        layer.conv.bias.zero_()
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert layer(x).flatten().tolist() == [0, 2, 8, 10]


def test_sizes():
    x = torch.randn(2, 4, 6, 8)
    assert Downsample2D(4)(x).shape == Downsample2D(4, padding=0)(x).shape == (2, 4, 3, 4)
    assert Upsample2D(4)(x).shape == (2, 4, 12, 16)


@pytest.mark.parametrize("smooth", [False, True])
def test_resampling_keeps_a_constant_and_has_no_weights(smooth):
    x = torch.full((1, 2, 8, 8), 3.0)
    for direction, size in (("down", 4), ("up", 16)):
        layer = Resample(direction, smooth=smooth)
        y = layer(x)
        assert y.shape == (1, 2, size, size)
        torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 3.0))
        assert not layer.state_dict()


def test_a_block_without_time_takes_none():
    block = ResnetBlock2D(8, 8, None, groups=4)
    assert block.time_emb_proj is None
    assert block(torch.randn(1, 8, 4, 4), None).shape == (1, 8, 4, 4)


def test_one_time_for_all_items_is_that_time_for_each():
    block = ResnetBlock2D(8, 12, 6, groups=4)
    x, temb = torch.randn(3, 8, 4, 4), torch.randn(1, 6)
    torch.testing.assert_close(block(x, temb), block(x, temb.expand(3, -1)))


def test_attention_is_the_formula():
    layer = SpatialSelfAttention(8, head_channels=4, groups=None)
    x = torch.randn(2, 8, 3, 5)
    rows = x.flatten(2).mT
    q, k, v = (f(rows).unflatten(-1, (2, 4)).transpose(1, 2) for f in (layer.to_q, layer.to_k, layer.to_v))
    attended = functional.softmax(q @ k.mT / 2, dim=-1) @ v
    expected = x + layer.to_out[0](attended.transpose(1, 2).flatten(2)).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("bias", [None, torch.tensor([0.0, 0.0, -10000.0])])
@torch.no_grad()
def test_scores_of_half_precision_are_kept_in_float32(bias):
    """What `upcast_attention` asks for holds in any case: scores beyond float16's 65,504 give the same attention."""
    torch.manual_seed(0)
    layer = Attention(32, 2, 32).half()
    for projection in (layer.to_q, layer.to_k):
        projection.weight.copy_(20 * torch.eye(32))
    rows, states = (torch.randn(shape).half() * 20 for shape in ((10, 32), (2, 3, 32)))
    found = layer(rows, 2, Text(states, None if bias is None else bias.half().view(1, 1, 1, 3)))
    query, (keys, values) = layer._heads(layer.to_q(rows), 2).float(), layer.project(states)
    scores = query @ keys.float().mT
    assert scores.abs().max() > 65504
    weights = (scores / 4 + (0 if bias is None else bias)).softmax(-1)
    expected = layer.float().to_out[0]((weights @ values.float()).transpose(1, 2).reshape(10, 32))
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-2)
