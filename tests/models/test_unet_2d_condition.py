"""`UNet2DConditionModel` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names and shapes."""

import inspect
import json
import re
from pathlib import Path

import diffusers
import pytest
import torch

from calotype.errors import ConfigError, InputError, MissingInput, UnknownInput, UnusedInput
from calotype.models.unet_2d_condition import UNet2DConditionConfig, UNet2DConditionModel
from calotype.nn.perturbation import Perturbation

PUBLISHED = Path(__file__).parent / "published"
SMALL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": 12,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
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
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
REFINER = {
    **XL,
    "block_out_channels": (8, 16, 24, 24),
    "attention_head_dim": (1, 2, 3, 3),
    "transformer_layers_per_block": 2,
    "projection_class_embeddings_input_dim": 40,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
DISTILLED = {  # the layout of SSD-1B
    **XL,
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": (1, (2,), (3,)),
    "reverse_transformer_layers_per_block": ((3, 1), (2, 1), 1),
}

SPACE = {
    "SD 1": {},
    "two layers, four levels": {
        "layers_per_block": 2,
        "block_out_channels": (8, 16, 24, 24),
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "SD 2": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    "inpainting": {"in_channels": 9},
    "InstructPix2Pix": {"in_channels": 8},
    "XL": XL,
    "XL refiner": REFINER,
    "distilled XL": DISTILLED,
    "guidance distilled": {"time_cond_proj_dim": 10},
    "upscaler": {"only_cross_attention": (True, False), "num_class_embeds": 50, "in_channels": 7},
    "all levels attend to the text only": {"only_cross_attention": True},
    "classes that are times": {"class_embed_type": "timestep"},
    "classes that are vectors": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 14},
    "classes that are embeddings": {"class_embed_type": "identity"},
    "projected text": {"encoder_hid_dim": 20, "encoder_hid_dim_type": "text_proj"},
    "projected text, unnamed": {"encoder_hid_dim": 20},
    "text widths and layers by level": {"cross_attention_dim": (12, 12), "layers_per_block": (2, 1)},
    "no middle": {"mid_block_type": None},
    "scale shift": {"resnet_time_scale_shift": "scale_shift"},
    "mid scale": {"mid_block_scale_factor": 1.5},
    "one side padding": {"downsample_padding": 0},
    "centred": {"center_input_sample": True},
    "gelu": {"act_fn": "gelu"},
    "time": {"time_embedding_dim": 40, "freq_shift": 1, "flip_sin_to_cos": False},
    "kernels": {"conv_in_kernel": 5, "conv_out_kernel": 1},
    "dropout": {"dropout": 0.5},
}


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the zeros or ones of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = UNet2DConditionModel(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(config, batch=2, height=8, width=16):
    """A sample, its text, and what else the network needs."""
    torch.manual_seed(1)
    more = {}
    if config.num_class_embeds or config.class_embed_type == "timestep":
        more["class_labels"] = torch.arange(batch)
    if config.class_embed_type == "projection":
        more["class_labels"] = torch.randn(batch, config.projection_class_embeddings_input_dim)
    if config.class_embed_type == "identity":
        more["class_labels"] = torch.randn(batch, config.time_channels)
    if config.addition_embed_type:
        numbers = torch.tensor([[8.0, 16, 0, 2, 8, 16]] * batch) if config.levels == 3 else torch.rand(batch, 5) * 9
        pooled = config.projection_class_embeddings_input_dim - numbers.shape[1] * config.addition_time_embed_dim
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(batch, pooled), "time_ids": numbers}
    sample = torch.randn(batch, config.in_channels, height, width)
    return sample, torch.randn(batch, 5, config.text_channels), more


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.isfinite(theirs).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("name", SPACE)
@torch.no_grad()
def test_equal_to_the_reference(name):
    ours, theirs = pair(**SPACE[name])
    sample, text, more = inputs(ours.config)
    if ours.config.time_cond_proj_dim:
        more["timestep_cond"] = torch.randn(2, ours.config.time_cond_proj_dim)
    for timestep in (7, torch.tensor(7), torch.tensor([3, 40])):
        expected = theirs(sample, timestep, text, **more).sample
        assert_equal(ours(sample, timestep, text, **more).sample, expected)
        assert_equal(ours(sample, timestep, ours.project_text(text), **more).sample, expected)


@pytest.mark.parametrize("name", ["SD 1", "XL"])
@torch.no_grad()
def test_the_texts_keys_and_values_are_those_of_each_step(name):
    ours, _ = pair(**SPACE[name])
    sample, text, more = inputs(ours.config)
    projected = ours.project_text(text)
    for timestep in (7, 900):
        assert torch.equal(ours(sample, timestep, projected, **more)[0], ours(sample, timestep, text, **more)[0])


@torch.no_grad()
def test_a_text_that_another_network_prepared_is_refused():
    ours, _ = pair(**SPACE["SD 1"])
    sample, text, more = inputs(ours.config)
    for fields in ({"layers_per_block": 2}, {"block_out_channels": (16, 8)}):
        other = UNet2DConditionModel(**{**ours.config.model_dump(), **fields})
        with pytest.raises(InputError, match=r"ProjectedText for .* make it with this network's project_text"):
            ours(sample, 7, other.project_text(text), **more)


@pytest.mark.parametrize(("height", "width"), [(9, 15), (5, 8), (1, 1)])
@torch.no_grad()
def test_any_size(height, width):
    ours, theirs = pair(**XL)
    sample, text, more = inputs(ours.config, height=height, width=width)
    assert_equal(ours(sample, 7, text, **more).sample, theirs(sample, 7, text, **more).sample)


@torch.no_grad()
def test_tokens_that_do_not_count():
    ours, theirs = pair()
    sample, text, _ = inputs(ours.config)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    expected = theirs(sample, 7, text, encoder_attention_mask=mask).sample
    for given in (text, ours.project_text(text)):
        assert_equal(ours(sample, 7, given, encoder_attention_mask=mask).sample, expected)
    changed = torch.cat((text[:, :3], torch.randn(2, 2, 12)), dim=1)
    masked = ours(sample, 7, changed, encoder_attention_mask=mask.bool()).sample
    assert_equal(masked[:1], expected[:1])


def residuals(network, sample, text, more):
    """Random maps of the sizes on the way down, and one for the middle, as a ControlNet makes them."""
    shapes = []
    handles = [
        block.register_forward_hook(lambda _, __, out: shapes.extend(skip.shape for skip in out[1]))
        for block in network.down_blocks
    ]
    handles.append(network.conv_in.register_forward_hook(lambda _, __, out: shapes.append(out.shape)))
    network(sample, 7, text, **more)
    for handle in handles:
        handle.remove()
    return tuple(torch.randn(shape) for shape in shapes), torch.randn(shapes[-1])


@pytest.mark.parametrize("name", ["SD 1", "XL", "no middle"])
@torch.no_grad()
def test_residuals_of_a_controlnet(name):
    ours, theirs = pair(**SPACE[name])
    sample, text, more = inputs(ours.config)
    downs, middle = residuals(ours, sample, text, more)
    more |= {"down_block_additional_residuals": downs, "mid_block_additional_residual": middle}
    plain = theirs(sample, 7, text, **{k: v for k, v in more.items() if k == "added_cond_kwargs"}).sample
    expected = theirs(sample, 7, text, **more).sample
    assert not torch.allclose(plain, expected)
    assert_equal(ours(sample, 7, text, **more).sample, expected)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("SD 1", [(16, 8, 16), (32, 4, 8)]),
        ("SD 1", [(16, 8, 16), (32, 4, 8), (32, 4, 8)]),
        ("XL", [(8, 4, 8), (16, 4, 8), (32, 2, 4)]),
        ("XL", [(8, 4, 8), (16, 4, 8), (32, 2, 4), (32, 2, 4)]),
    ],
)
@torch.no_grad()
def test_residuals_of_an_adapter(name, sizes):
    ours, theirs = pair(**SPACE[name])
    sample, text, more = inputs(ours.config)
    maps = [torch.randn(2, *size) for size in sizes]
    expected = theirs(sample, 7, text, **more, down_intrablock_additional_residuals=[*maps]).sample
    assert_equal(ours(sample, 7, text, **more, down_intrablock_additional_residuals=maps).sample, expected)
    assert len(maps) == len(sizes)


def test_equal_gradients():
    ours, theirs = pair()
    sample, text, _ = inputs(ours.config)
    for network in (ours, theirs):
        network.train()(sample, torch.tensor([3, 40]), text).sample.square().mean().backward()
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-4, atol=1e-6)


def test_inference_changes_no_input_and_no_result():
    ours, _ = pair(**XL)
    sample, text, more = inputs(ours.config)
    before = sample.clone(), text.clone()
    with torch.no_grad():
        alone = ours(sample, 7, text, **more).sample
    assert torch.equal(sample, before[0])
    assert torch.equal(text, before[1])
    assert_equal(alone, ours(sample, 7, text, **more).sample.detach())


@torch.no_grad()
def test_tuples_and_half_precision():
    ours, _ = pair()
    sample, text, _ = inputs(ours.config)
    assert torch.equal(ours(sample, 7, text, return_dict=False)[0], ours(sample, 7, text).sample)
    half = ours.bfloat16()
    assert half(sample.bfloat16(), 7, text.bfloat16()).sample.dtype == torch.bfloat16
    assert half.time_proj.frequencies.dtype == torch.float32


MILLIONS = {
    "CompVis--stable-diffusion-v1-4": 859.52,
    "runwayml--stable-diffusion-v1-5": 859.52,
    "runwayml--stable-diffusion-inpainting": 859.54,
    "timbrooks--instruct-pix2pix": 859.53,
    "stabilityai--stable-diffusion-2-1": 865.91,
    "stabilityai--stable-diffusion-2-1-base": 865.91,
    "stabilityai--stable-diffusion-2-inpainting": 865.92,
    "stabilityai--stable-diffusion-xl-base-1.0": 2567.46,
    "stabilityai--stable-diffusion-xl-refiner-1.0": 2259.53,
    "diffusers--stable-diffusion-xl-1.0-inpainting-0.1": 2567.48,
}


@pytest.mark.parametrize("repository", MILLIONS)
def test_published_configs_have_the_references_names_and_shapes(repository):
    fields = json.loads((PUBLISHED / f"{repository}--unet.json").read_text())
    with torch.device("meta"):
        ours = UNet2DConditionModel(**fields)
        theirs = diffusers.UNet2DConditionModel.from_config(fields)
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(MILLIONS[repository], abs=0.01)


def test_the_defaults_are_the_references():
    reference = {
        name: parameter.default
        for name, parameter in inspect.signature(diffusers.UNet2DConditionModel.__init__).parameters.items()
        if name != "self"
    }
    assert UNet2DConditionConfig().model_dump() == reference


def test_arguments_have_the_references_places():
    theirs, ours = (
        list(inspect.signature(network.forward).parameters)
        for network in (diffusers.UNet2DConditionModel, UNet2DConditionModel)
    )
    assert ours == [*theirs, "perturbation", "picture_prompts", "attention", "cache"]  # our own comes last


def test_a_saved_network_comes_back_in_both_libraries(tmp_path):
    ours, _ = pair(**XL)
    ours.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config == ours.config
    reference = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    sample, text, more = inputs(ours.config)
    with torch.no_grad():
        expected = reference(sample, 7, text, **more).sample
        assert_equal(loaded(sample, 7, text, **more).sample, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": (16,)}, "every level needs one of each, but block_out_channels has 1"),
        ({"attention_head_dim": (4, 4, 4)}, "attention_head_dim has 3"),
        ({"down_block_types": ()}, "down_block_types"),
        ({"down_block_types": ("KDownBlock2D", "DownBlock2D")}, "down_block_types.0"),
        ({"up_block_types": ("UpBlock2D", "SimpleCrossAttnUpBlock2D")}, "up_block_types.1"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type"),
        ({"norm_num_groups": 5}, "must be multiples of 'norm_num_groups' 5, got 16"),
        ({"norm_num_groups": None}, "norm_num_groups"),
        ({"attention_head_dim": 5}, "'attention_head_dim' 5, a number of heads, must divide the 16 channels"),
        ({"num_attention_heads": 4}, "num_attention_heads"),
        ({"dual_cross_attention": True}, "dual_cross_attention"),
        ({"class_embed_type": "simple_projection"}, "class_embed_type"),
        ({"class_embed_type": "timestep", "num_class_embeds": 3}, "give one of them"),
        ({"class_embed_type": "projection"}, "'projection' needs 'projection_class_embeddings_input_dim'"),
        ({"addition_embed_type": "image"}, "addition_embed_type"),
        ({"addition_embed_type": "text_time"}, "'text_time' needs 'projection_class_embeddings_input_dim'"),
        ({**XL, "addition_time_embed_dim": None}, "'text_time' needs 'addition_time_embed_dim'"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type"),
        ({"encoder_hid_dim_type": "text_proj"}, "'text_proj' needs 'encoder_hid_dim'"),
        ({"resnet_skip_time_act": True}, "resnet_skip_time_act"),
        ({"resnet_out_scale_factor": 2.0}, "'resnet_out_scale_factor' must be 1"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"time_embedding_act_fn": "gelu"}, "time_embedding_act_fn"),
        ({"timestep_post_act": "silu"}, "timestep_post_act"),
        ({"attention_type": "gated"}, "attention_type"),
        ({"mid_block_only_cross_attention": True}, "mid_block_only_cross_attention"),
        ({"class_embeddings_concat": True}, "class_embeddings_concat"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm"),
        ({"conv_in_kernel": 4}, "'conv_in_kernel' must be odd"),
        ({"mid_block_scale_factor": 0}, "cannot be 0"),
        ({"freq_shift": 8}, "'freq_shift' 8 leaves a positional time embedding no frequencies"),
        ({"transformer_layers_per_block": ((2,), 1)}, "needs 'reverse_transformer_layers_per_block'"),
        ({**DISTILLED, "transformer_layers_per_block": (1, (2, 2), 1)}, "needs 1 depths for level 1, got [2, 2]"),
        ({**DISTILLED, "reverse_transformer_layers_per_block": (1, (2,), 1)}, "needs 2 depths for level 1, got [2]"),
        ({"in_chanels": 3}, "'in_chanels' is not a field; did you mean 'in_channels'?"),
    ],
)
def test_what_a_config_may_not_say(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        UNet2DConditionModel(**{**SMALL, **changes})


X, T = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 12)
ADDED = {"text_embeds": torch.zeros(2, 10), "time_ids": torch.zeros(2, 6)}


@pytest.mark.parametrize(
    ("changes", "arguments", "more", "error", "message"),
    [
        ({}, (X[:, :3], 1, T), {}, InputError, "sample must be [batch, 4, height, width], got [2, 3, 8, 8]"),
        ({}, (X, 1, T[:1]), {}, InputError, "must be for 2 items, as sample is, got 1"),
        ({}, (X, 1, T[:, :, :3]), {}, InputError, "must be [batch, tokens, 12], got [2, 5, 3]"),
        ({}, (X, torch.zeros(3), T), {}, InputError, "one for each of 2 items, got [3]"),
        ({}, (X, 1, T, torch.tensor([1, 2])), {}, UnusedInput, "has no classes"),
        ({"num_class_embeds": 3}, (X, 1, T), {}, MissingInput, "give class_labels"),
        ({"num_class_embeds": 3}, (X, 1, T, torch.tensor([1])), {}, InputError, "one for each of 2 items, got [1]"),
        ({}, (X, 1, T), {"timestep_cond": torch.zeros(2, 3)}, UnusedInput, "has no time_cond_proj_dim"),
        ({}, (X, 1, T), {"attention_mask": torch.ones(2, 5)}, UnusedInput, "give encoder_attention_mask"),
        ({}, (X, 1, T), {"cross_attention_kwargs": {"scale": 1.0}}, UnusedInput, "not taken, got ['scale']"),
        ({}, (X, 1, T), {"added_cond_kwargs": ADDED}, UnusedInput, "takes none (addition_embed_type is null)"),
        (XL, (X, 1, T), {}, MissingInput, "needs added_cond_kwargs['text_embeds']"),
        (XL, (X, 1, T), {"added_cond_kwargs": {"text_embeds": X}}, MissingInput, "needs added_cond_kwargs['time_ids']"),
        (XL, (X, 1, T), {"added_cond_kwargs": {"text_embed": X}}, UnknownInput, "did you mean 'text_embeds'?"),
        (XL, (X, 1, T), {"added_cond_kwargs": {**ADDED, "time_ids": torch.zeros(2, 5)}}, InputError, "must be 46 wide"),
        (XL, (X, 1, T), {"added_cond_kwargs": {k: v[:1] for k, v in ADDED.items()}}, InputError, "each of 2 items"),
        ({}, (X, 1, T), {"mid_block_additional_residual": X}, InputError, "belong together"),
        ({}, (X, 1, T), {"down_block_additional_residuals": [X]}, InputError, "down_intrablock_additional_residuals"),
        (
            {},
            (X, 1, T),
            {"down_block_additional_residuals": [X], "mid_block_additional_residual": X},
            InputError,
            "must be 4, one for each map, got 1",
        ),
        ({}, (X, 1, T), {"down_intrablock_additional_residuals": [X]}, InputError, "must be 2, one for each level"),
    ],
)
def test_what_a_call_may_not_say(changes, arguments, more, error, message):
    network = UNet2DConditionModel(**{**SMALL, **changes})
    with pytest.raises(error, match=re.escape(message)):
        network(*arguments, **more)


# -- perturbed attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["SD 1", "SD 2", "XL"])
def test_perturbed_attention_of_the_middle_equals_the_reference(case):
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

    ours, theirs = pair(**SPACE[case])
    for name, layer in theirs.mid_block.named_modules():
        if name.endswith("attn1"):
            layer.set_processor(PAGIdentitySelfAttnProcessor2_0())
    sample, text, more = inputs(ours.config)
    with torch.no_grad():  # the reference perturbs the second half of a batch
        plain, perturbed = theirs(_twice(sample), 7, _twice(text), **_twice(more)).sample.chunk(2)
        assert_equal(ours(sample, 7, text, **more, perturbation=Perturbation("identity_attention")).sample, perturbed)
        assert_equal(ours(sample, 7, text, **more).sample, plain)
    assert not torch.allclose(plain, perturbed, atol=1e-3)


def _twice(value):
    if isinstance(value, dict):
        return {k: _twice(v) for k, v in value.items()}
    return torch.cat([value, value]) if isinstance(value, torch.Tensor) and value.ndim else value


@pytest.mark.parametrize(
    ("changes", "perturbation", "message"),
    [
        ({}, Perturbation("skip"), "perturbs the attention of its middle alone"),
        ({}, Perturbation("identity_attention", (0,)), "perturbs the attention of its middle alone"),
        ({"mid_block_type": None}, Perturbation("identity_attention"), "has no attention in its middle"),
        ({"mid_block_type": "UNetMidBlock2D"}, Perturbation("identity_attention"), "has no attention in its middle"),
    ],
)
def test_other_perturbations_are_refused(changes, perturbation, message):
    network = UNet2DConditionModel(**{**SMALL, **changes}).eval()
    with pytest.raises(InputError, match=message):
        network(torch.zeros(1, 4, 8, 8), 7, torch.zeros(1, 3, 12), perturbation=perturbation)
