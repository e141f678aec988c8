"""`ControlNetModel` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names and shapes."""

import inspect
import re

import diffusers
import pytest
import torch

from calotype.errors import ConfigError, InputError, MissingInput, UnusedInput
from calotype.models.controlnet import ControlNetConfig, ControlNetModel
from calotype.models.unet_2d_condition import UNet2DConditionModel

SMALL = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": 12,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "conditioning_embedding_out_channels": (4, 6, 8),
}
XL = {
    "block_out_channels": (8, 16, 32),
    "attention_head_dim": (2, 4, 8),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 6,
    "projection_class_embeddings_input_dim": 46,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
}
SPACE = {
    "SD 1": {},
    "two layers": {"layers_per_block": 2},
    "SD 2": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    "XL": XL,
    "XL without text": {
        **XL, "down_block_types": ("DownBlock2D",) * 3, "transformer_layers_per_block": (0, 0, 0),
        "mid_block_type": "UNetMidBlock2D",
    },
    "pooled": {"global_pool_conditions": True},
    "blue first": {"controlnet_conditioning_channel_order": "bgr"},
    "one channel, at the size of the latents": {
        "conditioning_channels": 1, "conditioning_embedding_out_channels": (6,),
    },
    "inpainting": {"in_channels": 9},
    "text only": {"only_cross_attention": (True, False)},
    "mid scale, padding, time": {
        "mid_block_scale_factor": 1.5, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False,
        "resnet_time_scale_shift": "scale_shift", "act_fn": "gelu",
    },
}  # fmt: skip


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the zeros of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.ControlNetModel(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = ControlNetModel(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(config, batch=2, height=8, width=16):
    """A sample, its text and its picture, and what else the network needs."""
    torch.manual_seed(1)
    more = {}
    if config.addition_embed_type:
        numbers = torch.tensor([[8.0, 16, 0, 2, 8, 16]] * batch)
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(batch, 10), "time_ids": numbers}
    sample = torch.randn(batch, config.in_channels, height, width)
    text = torch.randn(batch, 5, config.cross_attention_dim)
    side = config.downscale
    return sample, text, torch.rand(batch, config.conditioning_channels, side * height, side * width), more


def assert_equal(ours, theirs):
    found = [*ours[0], ours[1]]
    wanted = [*theirs[0], theirs[1]]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.isfinite(other).all()
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize(("scale", "guess"), [(1.0, False), (0.7, False), (0.7, True)])
@torch.no_grad()
def test_equal_to_the_reference(name, scale, guess):
    ours, theirs = pair(**SPACE[name])
    sample, text, picture, more = inputs(ours.config)
    for timestep in (7, torch.tensor([3, 40])):
        wanted = theirs(sample, timestep, text, picture, scale, guess_mode=guess, return_dict=False, **more)
        assert_equal(ours(sample, timestep, text, picture, scale, guess_mode=guess, **more), wanted)
        embedded = ours.embed_condition(picture)
        assert_equal(ours(sample, timestep, text, embedded, scale, guess_mode=guess, **more), wanted)


@torch.no_grad()
def test_a_picture_embedded_once_is_that_of_each_step():
    ours, _ = pair()
    sample, text, picture, _ = inputs(ours.config)
    embedded = ours.embed_condition(picture)
    for timestep in (7, 900):
        once, each = ours(sample, timestep, text, embedded), ours(sample, timestep, text, picture)
        assert all(torch.equal(a, b) for a, b in zip((*once[0], once[1]), (*each[0], each[1]), strict=True))


@torch.no_grad()
def test_a_scale_for_each_item_and_one_picture_for_all():
    ours, _ = pair()
    sample, text, picture, _ = inputs(ours.config)
    several = ours(sample, 7, text, picture[:1], torch.tensor([0.5, 0.0]))
    first = ours(sample[:1], 7, text[:1], picture[:1], 0.5)
    for both, one in zip((*several[0], several[1]), (*first[0], first[1]), strict=True):
        torch.testing.assert_close(both[:1], one, rtol=1e-5, atol=1e-5)
        assert not both[1].any()


@torch.no_grad()
def test_tokens_that_do_not_count():
    ours, _ = pair()
    sample, text, picture, _ = inputs(ours.config)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    found = ours(sample, 7, text, picture, encoder_attention_mask=mask)
    wanted = ours(sample, 7, text[:, :3], picture)
    assert_equal(found, wanted)


def test_a_new_one_has_the_denoisers_weights_and_adds_nothing():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        **{name: SMALL[name] for name in SMALL if name != "conditioning_embedding_out_channels"},
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    fresh = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 6, 8))
    sample, text, picture, _ = inputs(fresh.config)
    with torch.no_grad():
        made = fresh(sample, 7, text, picture)
    assert not any(m.any() for m in (*made[0], made[1]))
    assert torch.equal(fresh.mid_block.resnets[0].conv1.weight, unet.mid_block.resnets[0].conv1.weight)
    assert fresh.conv_in.weight is not unet.conv_in.weight
    for changes in ({"class_embed_type": "timestep"}, {"center_input_sample": True}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            ControlNetModel.from_unet(UNet2DConditionModel(**{**unet.config, **changes}))


SD = {"act_fn": "silu", "only_cross_attention": False, "layers_per_block": 2, "num_class_embeds": None}
SDXL = {
    **SD, "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
}  # fmt: skip
SIZES = {
    "SD 1": ({**SD, "cross_attention_dim": 768}, 361.28),
    "SD 2": ({**SD, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
             364.23),
    "XL": (SDXL, 1251.01),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_full_sizes_have_the_references_names_and_shapes(name):
    fields, millions = SIZES[name]
    with torch.device("meta"):
        ours, theirs = ControlNetModel(**fields), diffusers.ControlNetModel.from_config(fields)
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_defaults_are_the_references():
    reference = {
        name: parameter.default
        for name, parameter in inspect.signature(diffusers.ControlNetModel.__init__).parameters.items()
        if name != "self"
    }
    assert ControlNetConfig().model_dump() == reference


def test_arguments_have_the_references_places():
    theirs = list(inspect.signature(diffusers.ControlNetModel.forward).parameters)
    ours = inspect.signature(ControlNetModel.forward).parameters.values()
    assert [p.name for p in ours if p.kind is not p.KEYWORD_ONLY] == theirs


def test_a_saved_network_comes_back_in_both_libraries(tmp_path):
    ours, _ = pair(**XL)
    ours.save_pretrained(tmp_path)
    loaded = ControlNetModel.from_pretrained(tmp_path)
    assert loaded.config == ours.config
    reference = diffusers.ControlNetModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    sample, text, picture, more = inputs(ours.config)
    with torch.no_grad():
        wanted = reference(sample, 7, text, picture, return_dict=False, **more)
        assert_equal(loaded(sample, 7, text, picture, **more), wanted)
        assert_equal(loaded(sample, 7, text, picture, return_dict=False, **more), wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": (16,)}, "every level needs one of each, but block_out_channels has 1"),
        ({"norm_num_groups": 5}, "must be multiples of 'norm_num_groups' 5, got 16"),
        ({"attention_head_dim": 5}, "'attention_head_dim' 5, a number of heads, must divide the 16 channels"),
        ({"transformer_layers_per_block": (0, 1)}, "is 0 for level 0, which attends to the text"),
        ({"addition_embed_type": "text_time"}, "'text_time' needs 'addition_time_embed_dim'"),
        ({"mid_block_scale_factor": 0}, "cannot be 0"),
        ({"freq_shift": 8}, "leaves a positional time embedding no frequencies"),
        ({"controlnet_conditioning_channel_order": "gbr"}, "controlnet_conditioning_channel_order"),
        ({"conditioning_chanels": 3}, "did you mean 'conditioning_channels'?"),
    ],
)
def test_what_a_config_may_not_say(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ControlNetModel(**{**SMALL, **changes})


X, T, P = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 12), torch.zeros(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "arguments", "more", "error", "message"),
    [
        ({}, (X[:, :3], 1, T, P), {}, InputError, "sample must be [batch, 4, height, width], got [2, 3, 8, 8]"),
        ({}, (X, 1, T[:1], P), {}, InputError, "must be [2, tokens, 12], got [1, 5, 12]"),
        ({}, (X, 1, T, P[:, :2]), {}, InputError, "controlnet_cond must be [batch, 3, height, width]"),
        ({}, (X, 1, T, P[:, :, :16]), {}, InputError, "must be 4 times as large as sample"),
        ({}, (X, 1, T, P), {"class_labels": X}, UnusedInput, "class_labels is not taken"),
        ({}, (X, 1, T, P), {"added_cond_kwargs": {"time_ids": X}}, UnusedInput, "takes none"),
        (XL, (X, 1, T, P), {}, MissingInput, "this ControlNetModel needs added_cond_kwargs['text_embeds']"),
    ],
)
def test_what_a_call_may_not_say(changes, arguments, more, error, message):
    network = ControlNetModel(**{**SMALL, **changes})
    with pytest.raises(error, match=re.escape(message)):
        network(*arguments, **more)
