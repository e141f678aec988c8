"""`AutoencoderKLQwenImage` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names."""

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file

from calotype import AutoencoderKLQwenImage, ModelConfig, ModelPool
from calotype.errors import ConfigError, InputError
from calotype.nn.tiling import decode_tiled, encode_tiled

SMALL = {
    "base_dim": 8,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": (0.0,) * 4,
    "latents_std": (1.0,) * 4,
}
SPACE = {
    "published, narrow": {},
    "two residual blocks": {"num_res_blocks": 2},
    "transparency": {"input_channels": 4},
    "frames halved early": {"temperal_downsample": [True, False, True]},
    "all frames halved": {"temperal_downsample": [True, True, True]},
    "pictures only": {"temperal_downsample": [False, False], "dim_mult": [1, 2, 2]},
}


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the ones of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLQwenImage(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = AutoencoderKLQwenImage(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def assert_equal(ours, theirs):
    assert torch.isfinite(theirs).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("name", SPACE)
@torch.no_grad()
def test_equal_to_the_reference(name, frames):
    ours, theirs = pair(**SPACE[name])
    # The reference cuts every video into pieces of four frames, which other halvings of the frames do not fit.
    frames = 1 + 4 * (frames - 1) if ours.config.frames_per_latent == 4 else 1
    video = torch.rand(2, ours.config.input_channels, frames, 16, 24) * 2 - 1
    expected = theirs.encode(video).latent_dist
    got = ours.encode(video).latent_dist
    assert_equal(got.mean, expected.mean)
    assert_equal(got.logvar, expected.logvar)
    assert_equal(ours.decode(got.mode()).sample, theirs.decode(expected.mode()).sample)


@torch.no_grad()
def test_longer_videos_are_the_references():
    ours, theirs = pair()
    video = torch.rand(1, 3, 13, 16, 16) * 2 - 1
    latents = theirs.encode(video).latent_dist.mode()
    assert latents.shape[2] == 4
    assert_equal(ours.encode(video).latent_dist.mode(), latents)
    decoded = theirs.decode(latents).sample
    assert decoded.shape == video.shape
    assert_equal(ours.decode(latents).sample, decoded)


@torch.no_grad()
def test_a_picture_is_a_video_of_one_frame():
    ours, _ = pair()
    picture = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = ours.encode(picture).latent_dist.mode()
    assert latents.shape == (2, 4, 2, 3)
    assert_equal(latents, ours.encode(picture[:, :, None]).latent_dist.mode()[:, :, 0])
    assert_equal(ours.decode(latents).sample, ours.decode(latents[:, :, None]).sample[:, :, 0])
    assert_equal(ours(picture).sample, ours.decode(latents).sample)


@torch.no_grad()
def test_no_frame_depends_on_a_later_one():
    ours, _ = pair()
    video = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    other = video.clone()
    other[:, :, 5:] = -other[:, :, 5:]
    one, two = (ours.encode(each).latent_dist.mode() for each in (video, other))
    assert torch.equal(one[:, :, :2], two[:, :, :2])
    assert not torch.allclose(one[:, :, 2], two[:, :, 2], atol=1e-3)


@torch.no_grad()
def test_calls_leave_nothing_behind():
    ours, _ = pair()
    video = torch.rand(1, 3, 5, 16, 16)
    first = ours.encode(video).latent_dist.mode()
    ours.encode(torch.rand(1, 3, 9, 8, 8))
    assert torch.equal(ours.encode(video).latent_dist.mode(), first)


def test_gradients_flow_as_in_the_reference():
    ours, theirs = pair()
    latents = torch.randn(1, 4, 1, 2, 2) * 0.1
    for network in (ours, theirs):
        network.decode(latents).sample.square().mean().backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = theirs_by_name[name].grad
        got = parameter.grad
        if name.startswith("decoder") and "time_conv" not in name:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (1, 4, 2, 6, 5)])
@torch.no_grad()
def test_tiles_of_pictures_and_videos_have_the_size_of_the_whole(shape):
    ours, _ = pair()
    latents = torch.randn(shape)
    whole = ours.decode(latents).sample
    tiled = decode_tiled(lambda z: ours.decode(z).sample, latents, tile=4, overlap=2)
    assert tiled.shape == whole.shape
    corner = ours.decode(latents[..., :4, :4]).sample  # one tile; its first half overlaps no other
    torch.testing.assert_close(tiled[..., :16, :8], corner[..., :16, :8], rtol=0, atol=1e-6)
    again = encode_tiled(lambda x: ours.encode(x).latent_dist.mode(), whole, tile=4, overlap=2)
    assert again.shape == latents.shape


@torch.no_grad()
def test_half_precision_stays_near():
    ours, _ = pair()
    latents = torch.randn(1, 4, 2, 3)
    expected = ours.decode(latents).sample
    got = ours.bfloat16().decode(latents.bfloat16()).sample
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().mean() < 0.05


@pytest.mark.parametrize("changes", [{}, {"input_channels": 4}], ids=["Qwen-Image", "Qwen-Image-Layered"])
def test_names_and_shapes_at_full_size(changes):
    with torch.device("meta"):
        ours, theirs = AutoencoderKLQwenImage(**changes), diffusers.AutoencoderKLQwenImage(**changes)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == expected
    assert ours.config.latents_mean == tuple(theirs.config.latents_mean)
    assert ours.config.latents_std == tuple(theirs.config.latents_std)
    assert 126_800_000 < sum(p.numel() for p in ours.parameters()) < 127_000_000


def original(name, resnets):
    """What the authors' own code calls the tensor that published folders call `name`."""
    for half in ("encoder", "decoder"):
        for index, number in (("0", "0"), ("1", "2")):
            name = name.replace(f"{half}.mid_block.resnets.{index}.", f"{half}.middle.{number}.residual.")
        name = name.replace(f"{half}.mid_block.attentions.0.", f"{half}.middle.1.")
        name = name.replace(f"{half}.norm_out.", f"{half}.head.0.").replace(f"{half}.conv_out.", f"{half}.head.2.")
        name = name.replace(f"{half}.conv_in.", f"{half}.conv1.")
    if name.startswith("encoder.down_blocks"):
        name = name.replace("down_blocks", "downsamples")
        name = name.replace(".norm", ".residual.norm").replace(".conv1", ".residual.conv1")
        name = name.replace(".conv2", ".residual.conv2")
    if name.startswith("decoder.up_blocks"):
        _, _, level, part, index, rest = name.split(".", 5)
        place = int(level) * (resnets + 2) + (int(index) if part == "resnets" else resnets + 1)
        name = f"decoder.upsamples.{place}." + ("residual." if rest[0:4] in ("norm", "conv") else "") + rest
        name = name.replace("residual.conv_shortcut", "shortcut")
    name = name.replace("conv_shortcut", "shortcut")
    for old, new in (("norm1", "0"), ("conv1", "2"), ("norm2", "3"), ("conv2", "6")):
        name = name.replace(f"residual.{old}", f"residual.{new}")
    return name.replace("post_quant_conv", "conv2") if "post" in name else name.replace("quant_conv", "conv1")


@torch.no_grad()
def test_files_of_the_authors_own_code_load(tmp_path):
    ours, _ = pair(num_res_blocks=2)
    weights = ours.state_dict()
    written = {original(name, 2): tensor.clone() for name, tensor in weights.items()}
    assert len(written) == len(weights)
    assert set(convert_wan_vae_to_diffusers(dict(written))) == set(weights)  # the reference reads the same names
    save_file(written, tmp_path / "wan_2.1_vae.safetensors")
    told = {name: ours.config[name] for name in ("latents_mean", "latents_std")}
    pool = ModelPool(ModelConfig(path=tmp_path / "wan_2.1_vae.safetensors", config=told))
    loaded = pool.fetch_model("autoencoder_kl_qwen_image")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_bad_configs_are_refused_by_name():
    with pytest.raises(ConfigError, match="'temperal_downsample' needs 3 values"):
        AutoencoderKLQwenImage(**SMALL, temperal_downsample=(True,))
    with pytest.raises(ConfigError, match="'latents_mean' needs 16 values"):
        AutoencoderKLQwenImage(latents_mean=(0.0,))
    with pytest.raises(ConfigError, match="attn_scales"):
        AutoencoderKLQwenImage(**SMALL, attn_scales=(0.5,))
    with pytest.raises(ConfigError, match="must be even"):
        AutoencoderKLQwenImage(**{**SMALL, "base_dim": 3, "dim_mult": (1, 3, 4, 4)})


@torch.no_grad()
def test_bad_inputs_are_refused_by_name():
    ours, _ = pair()
    with pytest.raises(InputError, match=r"pictures must be \[batch, 3, height, width\]"):
        ours.encode(torch.rand(1, 4, 16, 16))
    with pytest.raises(InputError, match="multiples of 8, got 20x16; nearest is 16x16"):
        ours.encode(torch.rand(1, 3, 20, 16))
    with pytest.raises(InputError, match="1 more than a multiple of 4, got 4; nearest is 5"):
        ours.encode(torch.rand(1, 3, 4, 16, 16))
    with pytest.raises(InputError, match="latents must be"):
        ours.decode(torch.rand(4, 2, 2))
