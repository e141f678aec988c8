"""Group normalisation against float64, in both layouts; RMS normalisation of values of another type than its weight."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from calotype import TextToImagePipeline
from calotype.models.autoencoder_kl import AutoencoderKL
from calotype.nn.normalization import GroupNorm, RMSNorm


def normalisation(channels=32):
    torch.manual_seed(0)
    norm = GroupNorm(4, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def error(norm, x):
    """How far the result is from that of float64."""
    exact = functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    return float((norm(x) - exact).abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 32, 128, 128), (2, 32, 9, 5), (1, 32, 70, 90)])
@torch.no_grad()
def test_digits_are_kept_in_both_layouts(layout, shape):
    """On values whose mean is far from 0, where one sum in float32 over 16,000 pixels is off by 2e-3."""
    norm, x = normalisation(), (torch.randn(shape) * 3 + 50).contiguous(memory_format=layout)
    before = x.clone()
    assert error(norm, x) < 5e-5
    assert norm(x).is_contiguous(memory_format=layout)
    assert torch.equal(x, before)


def test_gradients_are_those_of_the_library():
    norm, x = normalisation(), torch.randn(2, 32, 6, 5, requires_grad=True)
    norm(x).square().sum().backward()
    found, x.grad = x.grad, None
    functional.group_norm(x, 4, norm.weight, norm.bias, norm.eps).square().sum().backward()
    assert torch.equal(found, x.grad)


@torch.no_grad()
def test_an_autoencoder_on_a_processor_keeps_its_digits():
    """Whose maps have their channels side by side: as close to float64 as with the other layout."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).eval()
    for name, parameter in vae.named_parameters():
        if name.endswith(("conv_in.bias", "conv1.bias", "conv2.bias")):
            parameter.add_(20.0)  # maps far from 0
    z = torch.randn(1, 4, 64, 64)
    found = vae.decode(z).sample
    exact = vae.double().decode(z.double()).sample
    assert float((found - exact).abs().max()) < 2e-5


@pytest.mark.parametrize(
    ("value", "weight"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float32)],
)
def test_values_of_another_type_than_the_weight(value: torch.dtype, weight: torch.dtype) -> None:
    """The library's numbers, in the values' type, without its warning."""
    torch.manual_seed(0)
    norm, reference = RMSNorm(64, eps=1e-6, dtype=weight), nn.RMSNorm(64, eps=1e-6, dtype=weight)
    nn.init.normal_(norm.weight)
    reference.load_state_dict(norm.state_dict())
    x, along = torch.randn(10, 64).to(value).requires_grad_(), torch.randn(10, 64).to(value)
    made = norm(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = reference(x)
    assert torch.equal(made, wanted) and made.dtype == value
    ours, theirs = (torch.autograd.grad(y, (x, n.weight), along) for y, n in ((made, norm), (wanted, reference)))
    assert all(map(torch.equal, ours, theirs))
    torch.testing.assert_close(made, norm.double()(x.double()).to(value))


def test_values_are_normalised_without_a_weight_too() -> None:
    x = torch.randn(3, 8)
    assert torch.equal(RMSNorm(8, elementwise_affine=False)(x), functional.rms_norm(x, (8,)))


def test_the_embedded_model_under_autocast_warns_of_nothing() -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    with torch.autocast("cpu", torch.bfloat16):
        narrow = pipe(prompt="a red apple", steps=2, seed=1, outputs=("latents",)).latents
    wide = pipe(prompt="a red apple", steps=2, seed=1, outputs=("latents",)).latents
    assert (narrow - wide).abs().mean() < 0.05 * wide.abs().mean()
