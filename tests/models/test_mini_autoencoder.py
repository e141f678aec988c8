"""The autoencoder of the embedded model, called by hand on a tiny configuration."""

import pytest
import torch
from torch.nn import functional as F

from calotype.errors import ConfigError, InputError
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_autoencoder.module import ResidualBlock

TINY = {"latent_channels": 2, "block_out_channels": (4, 6), "detail_channels": 3}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MiniAutoencoderKL(**TINY).eval()


def images(batch=2, height=8, width=12):
    torch.manual_seed(1)
    return torch.rand(batch, 3, height, width) * 2 - 1


def test_shapes(network):
    latents = network.encode(images())
    assert latents.shape == (2, 2, 2, 3)
    assert network.decode(latents).shape == (2, 3, 8, 12)
    assert network(images()).shape == (2, 3, 8, 12)


def test_the_embedded_model_downscales_by_eight():
    network = MiniAutoencoderKL().eval()
    assert network.config.downscale == 8
    assert network.encode(images(1, 64, 64)).shape == (1, 16, 8, 8)


def test_scaling_is_undone_by_decoding(network):
    scaled = MiniAutoencoderKL(**TINY, latents_mean=(0.5, -1.0), latents_std=(2.0, 0.25)).eval()
    scaled.load_state_dict(network.state_dict())
    latents = network.encode(images())
    statistics = torch.tensor([0.5, -1.0]).view(-1, 1, 1), torch.tensor([2.0, 0.25]).view(-1, 1, 1)
    torch.testing.assert_close(scaled.encode(images()), (latents - statistics[0]) / statistics[1])
    torch.testing.assert_close(scaled(images()), network(images()))


def test_moments_are_the_mean_and_a_bounded_log_variance(network):
    moments = network.encode_moments(images())
    torch.testing.assert_close(moments.mean, network.encode(images()))
    assert moments.log_variance.shape == moments.mean.shape
    with torch.no_grad():
        network.encoder.conv_out.bias.fill_(1000.0)
    assert network.encode_moments(images()).log_variance.max() == 10


def test_a_picture_does_not_depend_on_its_batch(network):
    torch.testing.assert_close(network(images())[1:], network(images()[1:]))


def test_a_block_starts_as_the_identity_and_equals_the_formula():
    block = ResidualBlock(4)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x + block.conv2.bias.view(-1, 1, 1))
    torch.nn.init.normal_(block.conv2.weight)
    inner = F.conv2d(F.silu(x), block.conv1.weight, block.conv1.bias, padding=1)
    expected = x + F.conv2d(F.silu(inner), block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), expected)


def test_gradients_reach_every_weight(network):
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            torch.nn.init.normal_(module.conv2.weight, std=0.1)
    moments = network.encode_moments(images())
    (network.decode(moments.mean).square().sum() + moments.log_variance.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [(9, 8, "height must .* got 9; nearest is 8"), (8, 2, "width must .* got 2; nearest is 4")],
)
def test_a_side_that_is_not_a_multiple_is_refused(network, height, width, message):
    with pytest.raises(InputError, match=message):
        network.encode(images(1, height, width))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_out_channels": ()}, "block_out_channels"),
        ({"latents_mean": (0.0,)}, "latents_mean must have 16 values"),
        ({"latents_std": (1.0,) * 3}, "latents_std must have 16 values"),
        ({"latents_std": (0.0,) * 16}, "latents_std"),
        ({"scaling_factor": 1.0}, "'scaling_factor' is not a field"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        MiniAutoencoderKL(**fields)
