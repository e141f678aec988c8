"""ControlNets of Qwen-Image beside the references: equal outputs for equal weights (fp32, 1e-5), equal names."""

import diffusers
import pytest
import torch
from torch.nn import functional

from calotype.errors import InputError
from calotype.models.qwen_image import QwenImageControlNetModel, QwenImageTransformer2DModel
from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
from calotype.nn.streams import Patches, Region, Words, references, regions

SMALL = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}
GRID = (1, 4, 6)


def pair(**changes):
    """Ours and the reference with the same random weights, none of them at the zeros of a fresh layer."""
    torch.manual_seed(0)
    theirs = diffusers.QwenImageControlNetModel(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = QwenImageControlNetModel(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("extra", [0, 4])
@torch.no_grad()
def test_equal_to_the_reference(extra, masked):
    ours, theirs = pair(extra_condition_channels=extra)
    tokens, text = torch.randn(2, 24, 16), torch.randn(2, 7, 20)
    control = torch.randn(2, 24, 16 + extra)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]) if masked else None
    arguments = (tokens, control, 0.7, text, mask, torch.tensor([0.3, 0.8]), [[GRID]] * 2)
    expected = theirs(*arguments).controlnet_block_samples
    got = ours(*arguments).controlnet_block_samples
    assert len(got) == len(expected) == 2
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_fresh_one_changes_nothing():
    network, steered = QwenImageControlNetModel(**SMALL), QwenImageTransformer2DModel(**SMALL).eval()
    tokens, text = torch.randn(1, 24, 16), torch.randn(1, 7, 20)
    samples = network(tokens, tokens, encoder_hidden_states=text, timestep=0.5, img_shapes=[[GRID]])
    plain = steered(tokens, text, None, 0.5, [[GRID]]).sample
    assert torch.equal(steered(tokens, text, None, 0.5, [[GRID]], samples.controlnet_block_samples).sample, plain)
    with pytest.raises(InputError, match="needs encoder_hidden_states"):
        network(tokens, tokens, img_shapes=[[GRID]])


def test_names_and_shapes_at_full_size():
    with torch.device("meta"):
        ours = QwenImageControlNetModel(num_layers=5, extra_condition_channels=4)
        theirs = diffusers.QwenImageControlNetModel(num_layers=5, extra_condition_channels=4)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == expected


def blockwise(**changes):
    torch.manual_seed(0)
    network = QwenImageBlockwiseControlNetModel(**{"num_layers": 2, "in_dim": 16, "dim": 48, **changes}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def test_a_blockwise_residual_is_its_definition():
    """Both inputs normalised with weights of their own, added, and passed through two layers."""
    network = blockwise(additional_in_dim=4)
    control, drawn = torch.randn(2, 24, 20), torch.randn(2, 24, 48)
    weights = network.state_dict()

    def unit(x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for block in range(2):
        stem = f"controlnet_blocks.{block}"
        both = unit(drawn) * weights[f"{stem}.x_rms.weight"]
        both = both + unit(linear("img_in", control)) * weights[f"{stem}.y_rms.weight"]
        expected = linear(f"{stem}.output_proj", functional.gelu(linear(f"{stem}.input_proj", both)))
        got = network.residual(network.prepare(control), 0.5)(block, drawn)
        torch.testing.assert_close(got, 0.5 * expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_blockwise_networks_steer_the_transformer_together():
    steered = QwenImageTransformer2DModel(**SMALL).eval()
    network = blockwise()
    tokens, text, control = torch.randn(1, 24, 16), torch.randn(1, 7, 20), torch.randn(1, 24, 16)
    ready, time = steered.prepare(text, [GRID]), steered.modulate(0.5)
    once = network.residual(network.prepare(control), 1.0)
    half = network.residual(network.prepare(control), 0.0)
    plain = steered.predict(tokens, time, ready)
    controlled = steered.predict(tokens, time, ready, residuals=[once])
    assert not torch.allclose(plain, controlled, atol=1e-3)
    assert torch.equal(steered.predict(tokens, time, ready, residuals=[half]), plain)
    torch.testing.assert_close(
        steered.predict(tokens, time, ready, residuals=[once, half]), controlled, rtol=0, atol=1e-6
    )


@torch.no_grad()
def test_texts_of_conditions_reach_it_and_pictures_are_refused():
    network, _ = pair()
    tokens, control = torch.randn(1, 24, 16), torch.zeros(1, 24, 48)
    text, time, area = torch.randn(1, 7, 20), network.modulate(0.5), torch.ones(1, 4, 6)

    def given(*conditions):
        return network.predict(tokens, control, time, network.prepare(text, [GRID], conditions=conditions))

    in_region = given(regions(Region(Words(torch.randn(1, 3, 20)), area)))
    assert not torch.allclose(in_region[-1], given()[-1], atol=1e-3)
    with pytest.raises(InputError, match=r"tokens must be \[1, 48, 16\] as prepared, got \[1, 24, 16\]"):
        given(references(Patches(torch.randn(1, 24, 16), GRID)))


def test_bad_controls_are_refused_by_name():
    network = blockwise()
    with pytest.raises(InputError, match="must be 16 wide, got 20"):
        network.prepare(torch.randn(1, 24, 20))
    ready = network.prepare(torch.randn(1, 24, 16))
    with pytest.raises(InputError, match="0 to 1, and not block 2"):
        network(torch.randn(1, 24, 48), ready, 2)
    with pytest.raises(InputError, match="the control has 24 tokens and the picture 25"):
        network(torch.randn(1, 25, 48), ready, 0)


def test_blockwise_names_are_those_of_published_files():
    with torch.device("meta"):
        names = set(QwenImageBlockwiseControlNetModel(additional_in_dim=4).state_dict())
    layers = (
        "x_rms.weight",
        "y_rms.weight",
        *(f"{n}_proj.{p}" for n in ("input", "output") for p in ("weight", "bias")),
    )
    assert names == {"img_in.weight", "img_in.bias"} | {
        f"controlnet_blocks.{block}.{layer}" for block in range(60) for layer in layers
    }
