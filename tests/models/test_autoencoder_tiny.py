"""`AutoencoderTiny` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names and shapes."""

import inspect
import json
import re
from pathlib import Path

import diffusers
import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.models.autoencoder_tiny import AutoencoderTiny, AutoencoderTinyConfig

PUBLISHED = Path(__file__).parent / "published"
SMALL = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
}
SPACE = {"TAESD": {}, "16 channels": {"latent_channels": 16}, "gelu": {"act_fn": "gelu"}, "mish": {"act_fn": "mish"}}


def pair(**changes):
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderTiny(**{**SMALL, **changes}).eval()
    ours = AutoencoderTiny(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.isfinite(theirs).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPACE)
@torch.no_grad()
def test_equal_to_the_reference(name):
    ours, theirs = pair(**SPACE[name])
    pictures = torch.rand(2, 3, 8, 12) * 2 - 1
    latents = ours.encode(pictures).latents
    assert_equal(latents, theirs.encode(pictures).latents)
    z = torch.randn_like(latents) * 3
    before = z.clone()
    assert_equal(ours.decode(z).sample, theirs.decode(z).sample)
    assert torch.equal(z, before)
    assert torch.equal(ours.decode(z, return_dict=False)[0], ours.decode(z).sample)
    assert torch.equal(ours.encode(pictures, return_dict=False)[0], latents)
    assert_equal(ours(pictures).sample, theirs(pictures).sample)


def test_latents_as_pictures():
    ours, theirs = pair()
    z = torch.randn(1, 4, 3, 3) * 3
    assert_equal(ours.scale_latents(z), theirs.scale_latents(z))
    assert_equal(ours.unscale_latents(ours.scale_latents(z)), z.clamp(-3, 3))


def test_equal_gradients():
    ours, theirs = pair()
    pictures = torch.rand(1, 3, 8, 8)
    for network in (ours, theirs):
        network.decode(network.encode(pictures)[0], return_dict=False)[0].square().mean().backward()
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("repository", ["madebyollin--taesd", "madebyollin--taef1"])
def test_published_configs_have_the_references_names_and_shapes(repository):
    fields = json.loads((PUBLISHED / f"{repository}--vae.json").read_text())
    with torch.device("meta"):
        ours = AutoencoderTiny(**fields)
        theirs = diffusers.AutoencoderTiny.from_config({k: v for k, v in fields.items() if k != "block_out_channels"})
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours.config.downscale == 8


def test_a_file_of_the_reference_loads(tmp_path):
    ours, theirs = pair()
    theirs.save_pretrained(tmp_path)
    loaded = AutoencoderTiny.from_pretrained(tmp_path)
    z = torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        assert torch.equal(loaded.decode(z).sample, ours.decode(z).sample)


def test_the_defaults_are_the_references():
    reference = {
        name: parameter.default
        for name, parameter in inspect.signature(diffusers.AutoencoderTiny.__init__).parameters.items()
        if name != "self"
    }
    assert AutoencoderTinyConfig().model_dump() == {**reference, "block_out_channels": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_encoder_blocks": (1, 2)}, "encoder_block_out_channels has 3 and num_encoder_blocks 2"),
        ({"encoder_block_out_channels": (8, 8, 16)}, "must be all the same"),
        ({"encoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}, "need as many levels"),
        ({"upsampling_scaling_factor": 3}, "must be 2"),
        ({"upsample_fn": "bilinear"}, "upsample_fn"),
        ({"block_out_channels": (8,)}, "the same as 'decoder_block_out_channels'"),
        ({"latent_magnitude": 0}, "latent_magnitude"),
        ({"latent_chanels": 4}, "did you mean 'latent_channels'?"),
    ],
)
def test_what_a_config_may_not_say(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        AutoencoderTiny(**{**SMALL, **changes})


def test_what_a_call_may_not_say():
    network = AutoencoderTiny(**SMALL)
    with pytest.raises(InputError, match="multiples of 4, got 10x8; nearest is 8x8"):
        network.encode(torch.zeros(1, 3, 10, 8))
    with pytest.raises(InputError, match=re.escape("latents must be [batch, 4, height, width], got [1, 3, 8, 8]")):
        network.decode(torch.zeros(1, 3, 8, 8))
