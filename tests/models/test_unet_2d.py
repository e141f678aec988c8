"""`UNet2DModel` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names and shapes in full."""

import inspect
import math
import re

import diffusers
import pytest
import torch
from jaxtyping import TypeCheckError

from calotype.errors import ConfigError, InputError, MissingInput, UnusedInput
from calotype.models.unet_2d import UNet2DConfig, UNet2DModel

SMALL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
ATTENTION_FIRST = {
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
}
RESNET_BLOCKS = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
SKIP = {
    "block_out_channels": (32, 64),
    "norm_num_groups": None,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "mid_block_scale_factor": math.sqrt(2),
    "norm_eps": 1e-6,
}
FOURIER = {"time_embedding_type": "fourier"}

SPACE = {
    "plain": {},
    "three levels": {
        "block_out_channels": (8, 16, 24),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "one level": {"block_out_channels": (16,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)},
    "the conventions of the first DDPM files": {
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "attention_head_dim": None,
        "norm_eps": 1e-6,
    },
    "channels": {"in_channels": 1, "out_channels": 2},
    "centred": {"center_input_sample": True},
    "fourier": FOURIER,
    "learned": {"time_embedding_type": "learned", "num_train_timesteps": 50},
    "time width": {"time_embedding_dim": 40},
    "odd time width": {"block_out_channels": (9, 18), "norm_num_groups": 3},
    "attention first": ATTENTION_FIRST,
    "resnet sampling": {**ATTENTION_FIRST, "downsample_type": "resnet", "upsample_type": "resnet"},
    "resnet sampling in blocks without": {"downsample_type": "resnet"},
    "resnet blocks": RESNET_BLOCKS,
    "mid scale": {"mid_block_scale_factor": 1.5},
    "no middle": {"mid_block_type": None},
    "no mid attention": {"add_attention": False},
    "scale shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale shift, normed attention": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "attention groups": {"attn_norm_num_groups": 4},
    "one head": {"attention_head_dim": None},
    "narrow heads": {"attention_head_dim": 4},
    "heads that do not divide": {"attention_head_dim": 24},
    "swish": {"act_fn": "swish"},
    "mish": {"act_fn": "mish"},
    "gelu": {"act_fn": "gelu"},
    "relu": {"act_fn": "relu"},
    "dropout": {"dropout": 0.5},
    "classes": {"num_class_embeds": 5},
    "class timestep": {"class_embed_type": "timestep"},
    "class identity": {"class_embed_type": "identity"},
    "old names": {
        "down_block_types": ("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
        "up_block_types": ("UNetResAttnUpBlock2D", "UNetResUpBlock2D"),
    },
    "skip": SKIP,
    "skip, fourier": {**SKIP, **FOURIER},
    "skip, relu": {**SKIP, "act_fn": "relu", "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 16},
    "skip, deeper": {
        **SKIP,
        **FOURIER,
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 2,
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
        "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
    },
}


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the zeros or ones of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name != "time_proj.weight":
                parameter.add_(0.1 * torch.randn_like(parameter))
    ours = UNet2DModel(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def labels_for(config: UNet2DConfig, batch: int = 2) -> torch.Tensor | None:
    if config.class_embed_type == "identity":
        return torch.randn(batch, config.time_channels)
    return torch.arange(batch) if config.num_class_embeds or config.class_embed_type else None


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.isfinite(theirs).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("name", SPACE)
@torch.no_grad()
def test_equal_to_the_reference(name):
    ours, theirs = pair(**SPACE[name])
    sample = torch.randn(2, ours.config.in_channels, 8, 16)
    labels = labels_for(ours.config)
    for timestep in (7, torch.tensor(7), torch.tensor([7]), torch.tensor([3, 40])):
        assert_equal(ours(sample, timestep, labels).sample, theirs(sample, timestep, labels).sample)


@torch.no_grad()
def test_fractional_times_and_tuples():
    ours, theirs = pair()
    sample = torch.randn(2, 3, 8, 8)
    time = torch.tensor(7.25)  # the reference cuts a plain 7.25 to 7
    assert_equal(ours(sample, 7.25, return_dict=False)[0], theirs(sample, time, return_dict=False)[0])
    assert torch.equal(ours(sample, 7.25)[0], ours(sample, torch.tensor(7.25)).sample)


def test_equal_gradients():
    ours, theirs = pair(dropout=0.0)
    sample = torch.randn(2, 3, 8, 8)
    for network in (ours, theirs):
        network.train()(sample, torch.tensor([3, 40])).sample.square().mean().backward()
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_dropout_is_for_training_only():
    network = UNet2DModel(**SMALL, dropout=0.5)
    sample = torch.randn(1, 3, 8, 8)
    assert not torch.equal(network.train()(sample, 1).sample, network(sample, 1).sample)
    assert torch.equal(network.eval()(sample, 1).sample, network(sample, 1).sample)


DDPM = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
CIFAR = {
    **DDPM,
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
LARGE = {  # celebahq, church, bedroom, cat
    **DDPM,
    "sample_size": 256,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
}
NCSNPP = {
    "sample_size": 256,
    "time_embedding_type": "fourier",
    "attention_head_dim": None,
    "norm_num_groups": None,
    "norm_eps": 1e-6,
    "mid_block_scale_factor": 1.41421356237,
    "block_out_channels": [128, 128, 256, 256, 256, 256, 256],
    "down_block_types": ["SkipDownBlock2D"] * 4 + ["AttnSkipDownBlock2D"] + ["SkipDownBlock2D"] * 2,
    "up_block_types": ["SkipUpBlock2D"] * 2 + ["AttnSkipUpBlock2D"] + ["SkipUpBlock2D"] * 4,
}


@pytest.mark.parametrize(("config", "millions"), [({}, None), (CIFAR, 35.75), (LARGE, 113.67), (NCSNPP, None)], ids=str)
def test_full_configs_have_the_references_names_and_shapes(config, millions):
    with torch.device("meta"):
        ours, theirs = UNet2DModel(**config), diffusers.UNet2DModel(**config)
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    if millions:
        assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_defaults_are_the_references():
    reference = {
        name: parameter.default
        for name, parameter in inspect.signature(diffusers.UNet2DModel.__init__).parameters.items()
        if name != "self"
    }
    assert UNet2DConfig().model_dump() == reference


def test_times_stay_precise_in_half_precision():
    network = UNet2DModel(**SMALL).bfloat16()
    assert torch.equal(network.time_proj(torch.tensor([999])), UNet2DModel(**SMALL).time_proj(torch.tensor([999])))
    assert network(torch.randn(1, 3, 8, 8, dtype=torch.bfloat16), 999).sample.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"block_out_channels": (16,)},
            "every level needs one of each, but block_out_channels has 1, down_block_types",
        ),
        ({"block_out_channels": ()}, "block_out_channels"),
        ({"norm_num_groups": 5}, "must be multiples of 'norm_num_groups' 5, got 16"),
        ({"norm_num_groups": None}, "'DownBlock2D' needs 'norm_num_groups'"),
        ({"attn_norm_num_groups": 5}, "'attn_norm_num_groups' 5 must divide"),
        ({"attention_head_dim": 64}, "'attention_head_dim' 64 is wider than a level with attention, 32"),
        ({"attention_head_dim": 0}, "attention_head_dim"),
        ({"time_embedding_type": "learned"}, "needs 'num_train_timesteps'"),
        ({"time_embedding_type": "sinus"}, "time_embedding_type"),
        ({"freq_shift": 8}, "'freq_shift' 8 leaves a positional time embedding no frequencies"),
        ({"class_embed_type": "projection"}, "class_embed_type"),
        ({"class_embed_type": "timestep", "num_class_embeds": 3}, "give one of them"),
        ({"class_embed_type": "timestep", "time_embedding_type": "learned", "num_train_timesteps": 9}, "needs a 'posi"),
        ({"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}, "down_block_types.1"),
        ({"down_block_types": ("DownBlock2D", "SkipDownBlock2D")}, "every block must be a 'Skip' block"),
        ({**SKIP, "in_channels": 4}, "adds images of 3 channels, got in_channels 4"),
        ({**SKIP, "block_out_channels": (32, 66)}, "multiples of 32, got 66"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type"),
        ({"mid_block_scale_factor": 0}, "cannot be 0"),
        ({"resnet_time_scale_shift": "ada_group"}, "resnet_time_scale_shift"),
        ({"downsample_padding": 2}, "downsample_padding"),
        ({"act_fn": "tanh"}, "act_fn"),
        ({"dropout": 1.5}, "dropout"),
        ({"in_chanels": 3}, "'in_chanels' is not a field; did you mean 'in_channels'?"),
    ],
)
def test_what_a_config_may_not_say(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        UNet2DModel(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "message"),
    [
        ({}, (torch.zeros(1, 4, 8, 8), 1), InputError, "sample must be [batch, 3, height, width], got [1, 4, 8, 8]"),
        ({}, (torch.zeros(1, 3, 9, 8), 1), InputError, "must be multiples of 2, got 9x8; nearest is 8x8"),
        ({}, (torch.zeros(1, 3, 0, 8), 1), InputError, "must be multiples of 2, got 0x8; nearest is 2x8"),
        ({}, (torch.zeros(2, 3, 8, 8), torch.zeros(3)), InputError, "one for each of 2 items, got [3]"),
        ({}, (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1)), InputError, "got [2, 1]"),
        ({}, (torch.zeros(1, 3, 8, 8), 1, torch.tensor([1])), UnusedInput, "has no classes"),
        ({"num_class_embeds": 3}, (torch.zeros(1, 3, 8, 8), 1), MissingInput, "give class_labels"),
        ({"num_class_embeds": 3}, (torch.zeros(2, 3, 8, 8), 1, torch.tensor([1])), InputError, "each of 2 items"),
        (FOURIER, (torch.zeros(1, 3, 8, 8), 0), InputError, "must be positive, got 0"),
        (SPACE["learned"], (torch.zeros(1, 3, 8, 8), 50), InputError, "an integer from 0 to 49, got 50"),
        (SPACE["learned"], (torch.zeros(1, 3, 8, 8), 1.5), InputError, "an integer from 0 to 49, got 1.5"),
        (SPACE["learned"], (torch.zeros(1, 3, 8, 8), torch.tensor(1.5)), InputError, "takes integer timesteps"),
    ],
)
def test_what_a_call_may_not_say(changes, arguments, error, message):
    network = UNet2DModel(**{**SMALL, **changes})
    with pytest.raises(error, match=re.escape(message)):
        network(*arguments)


def test_a_sample_of_another_rank_is_refused():
    with pytest.raises((InputError, TypeCheckError), match=r"\[3, ?8, ?8\]"):  # whichever looks first
        UNet2DModel(**SMALL)(torch.zeros(3, 8, 8), 1)


def test_loads_files_with_the_older_names_of_attention(tmp_path):
    from safetensors.torch import load_file, save_file

    network = UNet2DModel(**SMALL)
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
    loaded = UNet2DModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())
    reference = diffusers.UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    sample = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert_equal(loaded(sample, 5).sample, reference(sample, 5).sample)
