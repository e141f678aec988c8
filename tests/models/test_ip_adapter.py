"""`IPAdapter` beside the reference: a denoiser with the same weights gives equal outputs (fp32, 1e-5)."""

import re

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from calotype import ModelConfig, ModelPool
from calotype.errors import ConfigError, InputError
from calotype.models.ip_adapter import IPAdapter
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.nn.transformer import PicturePrompt

UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": 12,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
LAYERS = (16, 32, 32, 32, 16, 16, 32)  # down, up, and the middle last, as published files count
SMALL = {"image_dim": 20, "cross_attention_dim": 12, "layers": LAYERS}
KINDS = {
    "linear": {**SMALL, "num_tokens": 4},
    "resampler": {**SMALL, "projection": "resampler", "num_tokens": 5, "hidden_dim": 24, "depth": 4, "heads": 2},
    "full": {**SMALL, "projection": "full"},
}


def adapter(name, seed=0):
    torch.manual_seed(seed)
    return IPAdapter(**KINDS[name]).eval()


def encoded(name, batch=2, seed=1):
    """What an encoder would make of pictures."""
    torch.manual_seed(seed)
    return torch.randn(batch, 20) if name == "linear" else torch.randn(batch, 257, 20)


def published(network):
    """The weights as the reference takes them."""
    parts = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in network.state_dict().items():
        part, _, rest = key.partition(".")
        parts[part][rest] = tensor
    return parts


def unets(*adapters):
    """Ours, and the reference with adapters put into it."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**UNET).eval()
    ours = UNet2DConditionModel(**UNET).eval()
    ours.load_state_dict(theirs.state_dict())
    theirs._load_ip_adapter_weights([published(a) for a in adapters], low_cpu_mem_usage=False)
    return ours, theirs


def scaled(theirs, *scales):
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = list(scales)


def sample():
    torch.manual_seed(2)
    return torch.randn(2, 4, 8, 16), 7, torch.randn(2, 5, 12)


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 0.6])
@torch.no_grad()
def test_equal_to_the_reference(name, scale):
    network = adapter(name)
    ours, theirs = unets(network)
    scaled(theirs, scale)
    picture = encoded(name)
    wanted = theirs(*sample(), added_cond_kwargs={"image_embeds": [picture[:, None]]}).sample
    found = ours(*sample(), picture_prompts=[PicturePrompt(network(picture), scale)]).sample
    assert_equal(found, wanted)
    assert float((ours(*sample()).sample - wanted).abs().max()) > 1e-3


@torch.no_grad()
def test_two_with_masks_are_the_references():
    first, second = adapter("linear"), adapter("resampler")
    ours, theirs = unets(first, second)
    scaled(theirs, 0.9, 0.5)
    pictures = encoded("linear"), encoded("resampler")
    masks = [torch.zeros(1, 1, 64, 128), torch.zeros(1, 1, 64, 128)]
    masks[0][..., :64], masks[1][..., 64:] = 1.0, 1.0
    given = {"added_cond_kwargs": {"image_embeds": [p[:, None] for p in pictures]}}
    wanted = theirs(*sample(), **given, cross_attention_kwargs={"ip_adapter_masks": masks}).sample
    prompts = [
        PicturePrompt(first(pictures[0]), 0.9, masks[0]),
        PicturePrompt(second(pictures[1]), 0.5, masks[1]),
    ]
    assert_equal(ours(*sample(), picture_prompts=prompts).sample, wanted)
    bare = [p._replace(mask=None) for p in prompts]
    assert_equal(ours(*sample(), picture_prompts=bare).sample, theirs(*sample(), **given).sample)


@torch.no_grad()
def test_one_picture_for_all_items():
    network = adapter("linear")
    ours, _ = unets(network)
    one = encoded("linear", batch=1)
    both = ours(*sample(), picture_prompts=[PicturePrompt(network(one.expand(2, -1)))]).sample
    assert_equal(ours(*sample(), picture_prompts=[PicturePrompt(network(one))]).sample, both)


@pytest.mark.parametrize("name", ["linear", "full"])
def test_published_files_are_recognised_and_tell_all(name, tmp_path):
    network = adapter(name)
    save_file(network.state_dict(), tmp_path / "ip-adapter.safetensors")
    loaded = ModelPool(ModelConfig(path=tmp_path / "ip-adapter.safetensors")).fetch_model("ip_adapter")
    assert isinstance(loaded, IPAdapter)
    picture = encoded(name)
    with torch.no_grad():
        for one, other in zip(loaded(picture), network(picture), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_full_size_takes_every_layer_of_the_denoiser():
    with torch.device("meta"):
        unet, network = UNet2DConditionModel(cross_attention_dim=768), IPAdapter()
    assert tuple(layer.to_q.out_features for layer in unet.picture_layers()) == network.config.layers
    # the published file has 44.6 MB in half precision
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(22.32, abs=0.01)


def test_what_is_refused():
    network = adapter("linear")
    ours, _ = unets(network)
    with pytest.raises(InputError, match=re.escape("picture must be [batch, 20], got [2, 257, 20]")):
        network(encoded("full"))
    with pytest.raises(InputError, match=re.escape("picture must be [batch, states, 20]")):
        adapter("resampler")(encoded("linear"))
    layers = network(encoded("linear"))
    with pytest.raises(InputError, match="must be of 7 layers as wide as this network's, got 6"):
        ours(*sample(), picture_prompts=[PicturePrompt(layers[:-1])])
    with pytest.raises(InputError, match="must be for 2 items"):
        ours(*sample(), picture_prompts=[PicturePrompt(network(encoded("linear", batch=3)))])
    with pytest.raises(ConfigError, match="needs a 'depth'"):
        IPAdapter(projection="resampler", depth=0)
