"""`AutoencoderKL` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names and shapes."""

import inspect
import json
import re
from pathlib import Path

import diffusers
import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig, DiagonalGaussian

PUBLISHED = Path(__file__).parent / "published"
SMALL = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
SPACE = {
    "SD": {},
    "deeper": {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
    },
    "16 channels": {
        "latent_channels": 16,
        "shift_factor": 0.1159,
        "scaling_factor": 0.3611,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "no attention": {"mid_block_add_attention": False},
    "channels": {"in_channels": 1, "out_channels": 2},
    "gelu": {"act_fn": "gelu"},
    "one level": {
        "block_out_channels": (16,),
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
    },
}


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the zeros or ones of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = AutoencoderKL(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def pictures(network, height=16, width=24):
    torch.manual_seed(1)
    return torch.rand(2, network.config.in_channels, height, width) * 2 - 1


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.isfinite(theirs).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("name", SPACE)
@torch.no_grad()
def test_equal_to_the_reference(name):
    ours, theirs = pair(**SPACE[name])
    x = pictures(ours)
    got, expected = ours.encode(x).latent_dist, theirs.encode(x).latent_dist
    assert_equal(got.mean, expected.mean)
    assert_equal(got.logvar, expected.logvar)
    assert_equal(got.std, expected.std)
    z = torch.randn_like(expected.mean)
    decoded = ours.decode(z).sample
    assert_equal(decoded, theirs.decode(z).sample)
    assert decoded.is_contiguous()
    assert_equal(ours(x).sample, theirs(x).sample)
    drawn = [n(x, sample_posterior=True, generator=torch.Generator().manual_seed(3)).sample for n in (ours, theirs)]
    assert_equal(*drawn)


@torch.no_grad()
def test_tuples():
    ours, _ = pair()
    x = pictures(ours)
    (distribution,) = ours.encode(x, return_dict=False)
    assert torch.equal(distribution.mean, ours.encode(x)[0].mean)
    z = distribution.mode()
    assert torch.equal(ours.decode(z, return_dict=False)[0], ours.decode(z).sample)


def test_arguments_have_the_references_places():
    for name in ("encode", "decode", "forward"):
        ours, theirs = (
            list(inspect.signature(getattr(cls, name)).parameters) for cls in (AutoencoderKL, diffusers.AutoencoderKL)
        )
        assert ours == theirs


def test_equal_gradients():
    ours, theirs = pair()
    x = pictures(ours)
    for network in (ours, theirs):
        distribution = network.train().encode(x).latent_dist
        (network.decode(distribution.mode()).sample.square().mean() + distribution.kl().mean()).backward()
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = reference[name].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item() + 1e-6)


@torch.no_grad()
def test_inference_changes_no_input_and_no_result():
    ours, _ = pair()
    x = pictures(ours)
    before = x.clone()
    moments = ours.encode(x).latent_dist
    z = moments.mean.clone()
    out = ours.decode(z).sample
    assert torch.equal(x, before)
    assert torch.equal(z, moments.mean)
    with torch.enable_grad():
        assert_equal(out, ours.decode(z).sample.detach())


@torch.no_grad()
def test_levels_can_be_hooked_to():
    ours, _ = pair(**SPACE["deeper"])
    x = pictures(ours)
    z = ours.encode(x).latent_dist.mean
    expected, seen = ours.decode(z).sample, []
    levels = [*ours.encoder.down_blocks, *ours.decoder.up_blocks]
    hooks = [level.register_forward_hook(lambda level, _, out: seen.append((level, out.shape))) for level in levels]
    assert torch.equal(ours.encode(x).latent_dist.mean, z)
    assert torch.equal(ours.decode(z).sample, expected)
    assert [level for level, _ in seen] == levels
    assert seen[0][1] == (2, 8, 8, 12) and seen[-1][1] == (2, 8, 16, 24)
    for hook in hooks:
        hook.remove()
    ours.decoder.up_blocks[0].register_forward_pre_hook(lambda level, given: (given[0] * 0,))
    assert not torch.equal(ours.decode(z).sample, expected)
    assert len(seen) == len(levels)


@torch.no_grad()
def test_half_precision():
    ours, _ = pair()
    half = ours.bfloat16()
    assert half.decode(torch.randn(1, 4, 4, 4, dtype=torch.bfloat16)).sample.dtype == torch.bfloat16


def moments(batch=2):
    torch.manual_seed(2)
    return torch.randn(batch, 8, 3, 5) * 3


def test_a_distribution_is_the_references():
    parameters = moments()
    parameters[0, 4, 0, 0] = 100.0
    ours = DiagonalGaussian.of(parameters)
    theirs = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(parameters)
    other = moments().roll(1, dims=0)
    torch.testing.assert_close(ours.var, theirs.var)
    torch.testing.assert_close(ours.kl(), theirs.kl())
    torch.testing.assert_close(
        ours.kl(DiagonalGaussian.of(other)),
        theirs.kl(diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(other)),
    )
    for seed in (0, 5):
        drawn = [d.sample(torch.Generator().manual_seed(seed)) for d in (ours, theirs)]
        torch.testing.assert_close(*drawn)
    assert torch.equal(ours.mode(), ours.mean)


def test_a_generator_for_each_item():
    distribution = DiagonalGaussian.of(moments())
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    theirs = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution(moments())
    expected = theirs.sample([torch.Generator().manual_seed(seed) for seed in (7, 8)])
    torch.testing.assert_close(distribution.sample(generators), expected)
    with pytest.raises(InputError, match="one for each of 2 items, got 1"):
        distribution.sample(generators[:1])


def test_draws_differ_without_a_generator():
    distribution = DiagonalGaussian.of(moments())
    assert not torch.equal(distribution.sample(), distribution.sample())


REPOSITORIES = sorted(path.name.removesuffix("--vae.json") for path in PUBLISHED.glob("*--vae.json"))
KL = [name for name in REPOSITORIES if not name.startswith("madebyollin--tae")]


@pytest.mark.parametrize("repository", KL)
def test_published_configs_have_the_references_names_and_shapes(repository):
    fields = json.loads((PUBLISHED / f"{repository}--vae.json").read_text())
    with torch.device("meta"):
        ours, theirs = AutoencoderKL(**fields), diffusers.AutoencoderKL.from_config(fields)
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    millions = {4: 83.65, 16: 83.82}[ours.config.latent_channels]
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert ours.config.scaling_factor == theirs.config.scaling_factor
    assert ours.config.shift_factor == theirs.config.shift_factor
    assert ours.config.downscale == 8


def test_there_are_published_configs():
    assert len(KL) == 7


def test_the_defaults_are_the_references():
    reference = {
        name: parameter.default
        for name, parameter in inspect.signature(diffusers.AutoencoderKL.__init__).parameters.items()
        if name != "self"
    }
    assert AutoencoderKLConfig().model_dump() == reference


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": (16,)}, "every level needs one of each, but block_out_channels has 1"),
        ({"block_out_channels": ()}, "block_out_channels"),
        ({"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")}, "down_block_types.1"),
        ({"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")}, "up_block_types.0"),
        ({"norm_num_groups": 5}, "must be multiples of 'norm_num_groups' 5, got 16"),
        ({"latents_mean": (0.0,)}, "'latents_mean' needs 4 values, one a channel, got 1"),
        ({"latents_std": (0.0,) * 4}, "latents_std.0"),
        ({"scaling_factor": 0.0}, "scaling_factor"),
        ({"scaling_facter": 1.0}, "'scaling_facter' is not a field; did you mean 'scaling_factor'?"),
    ],
)
def test_what_a_config_may_not_say(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        AutoencoderKL(**{**SMALL, **changes})


def test_what_a_call_may_not_say():
    network = AutoencoderKL(**SMALL)
    with pytest.raises(InputError, match=re.escape("pictures must be [batch, 3, height, width], got [1, 4, 8, 8]")):
        network.encode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(InputError, match="multiples of 2, got 9x8; nearest is 8x8"):
        network.encode(torch.zeros(1, 3, 9, 8))
    with pytest.raises(InputError, match=re.escape("latents must be [batch, 4, height, width], got [1, 3, 8, 8]")):
        network.decode(torch.zeros(1, 3, 8, 8))


def test_loads_files_with_the_older_names_of_attention(tmp_path):
    from safetensors.torch import load_file, save_file

    network, _ = pair()
    network.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, tensor in load_file(path).items():
        for new, old in older.items():
            key = key.replace(f".{new}.", f".{old}.")
        state[key] = tensor
    assert not any("to_q" in key for key in state)
    save_file(state, path)
    loaded = AutoencoderKL.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())
    reference = diffusers.AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    z = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        assert_equal(loaded.decode(z).sample, reference.decode(z).sample)
