"""The transformer of the embedded model, called by hand on a tiny configuration."""

import math

import pytest
import torch
from torch.nn import functional as F

from calotype.errors import ConfigError, InputError
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.mini_transformer.module import grid_positions, sinusoids
from calotype.nn.perturbation import Perturbation

TINY = {"in_channels": 3, "sample_size": 4, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "text_dim": 6}


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = MiniTransformer2DModel(**TINY).eval()
    for name, parameter in made.named_parameters():
        if "modulation" in name or "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def inputs(batch=2, height=4, width=4, words=5):
    torch.manual_seed(1)
    mask = torch.arange(words) < torch.tensor([[words], [2]])[:batch]
    latents = torch.randn(batch, 3, height, width)
    return latents, torch.rand(batch), torch.randn(batch, words, 6), mask, torch.randn(batch, 6)


def test_the_velocity_has_the_shape_of_the_latents(network):
    latents, *rest = inputs()
    assert network(latents, *rest).shape == latents.shape


def test_it_starts_at_zero():
    assert (MiniTransformer2DModel(**TINY)(*inputs()) == 0).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 6), (8, 8)])
def test_other_sizes_run(network, height, width):
    out = network(*inputs(height=height, width=width))
    assert out.shape == (2, 3, height, width)
    assert out.isfinite().all()


def test_an_item_does_not_depend_on_its_batch(network):
    given = inputs()
    together = network(*given)
    alone = network(*[value[1:] for value in given])
    torch.testing.assert_close(together[1:], alone, atol=1e-6, rtol=1e-5)


def test_words_that_are_masked_do_not_matter(network):
    latents, timestep, text, mask, pooled = inputs()
    changed = torch.where(mask[..., None], text, 100.0)
    torch.testing.assert_close(
        network(latents, timestep, text, mask, pooled), network(latents, timestep, changed, mask, pooled)
    )


@pytest.mark.parametrize("index", range(5))
def test_every_input_matters(network, index):
    given = list(inputs())
    before = network(*given)
    given[index] = ~given[index] if given[index].dtype == torch.bool else given[index] + 0.3
    assert not torch.allclose(before, network(*given))


def test_position_matters(network):
    latents, *rest = inputs()
    moved = network(latents.flip(-1), *rest)
    assert not torch.allclose(moved.flip(-1), network(latents, *rest))


def test_gradients_reach_every_weight(network):
    network(*inputs()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_one_block_equals_the_formula(network):
    """Attention over image and words, and the gated layer, written out with softmax and matrix products."""
    block = network.blocks[0]
    torch.manual_seed(2)
    x, text, shared = torch.randn(1, 4, 8), torch.randn(1, 3, 6), torch.randn(1, 6, 8)
    mask = torch.tensor([[True] * 4 + [True, False, True]])

    def normalized(values, weight=1.0):
        return values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-5) * weight

    shift1, scale1, gate1, shift2, scale2, gate2 = (shared + block.modulation).unbind(1)
    h = normalized(x) * (1 + scale1) + shift1
    q, k, v = (h @ block.to_qkv.weight.T).split(8, dim=-1)
    text_k, text_v = (text @ block.text_kv.weight.T).split(8, dim=-1)
    k, v = torch.cat([k, text_k], 1), torch.cat([v, text_v], 1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = normalized(q[..., part], block.norm_q.weight) @ normalized(k[..., part], block.norm_k.weight).mT
        heads.append((scores / 2).masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ v[..., part])
    expected = x + gate1 * (torch.cat(heads, -1) @ block.to_out.weight.T)
    h = normalized(expected) * (1 + scale2) + shift2
    gate, up = (h @ block.gate_up.weight.T).split(16, dim=-1)
    expected = expected + gate2 * ((F.silu(gate) * up) @ block.down.weight.T)
    torch.testing.assert_close(block(x, shared, text, mask[:, None, None]), expected, atol=1e-5, rtol=1e-5)


def test_sinusoids_are_sines_and_cosines_of_falling_frequencies():
    waves = sinusoids(torch.tensor([2.0]), 4, max_period=100.0)
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    torch.testing.assert_close(waves, torch.tensor([expected]))


def test_a_larger_grid_lies_on_the_same_picture():
    """The middle of four latents of a grid twice as fine is where one latent of the native grid is."""
    native = grid_positions(1, 1, 4, 8, torch.device("cpu"))
    fine = grid_positions(3, 3, 4, 8, torch.device("cpu"))
    torch.testing.assert_close(fine[4], native[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 10, "num_heads": 4}, "multiple of num_heads 4"),
        ({"hidden_size": 6, "num_heads": 2}, "multiple of 4"),
        ({"num_layers": 0}, "num_layers"),
        ({"depth": 3}, "'depth' is not a field"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        MiniTransformer2DModel(**fields)


def without(network, index):
    """The same network, made without one of its blocks."""
    made = MiniTransformer2DModel(**{**TINY, "num_layers": 1}).eval()
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith(f"blocks.{index}.")}
    made.load_state_dict({k.replace(f"blocks.{1 - index}.", "blocks.0."): v for k, v in kept.items()})
    return made


@pytest.mark.parametrize("index", [0, 1])
def test_a_skipped_block_is_as_if_it_were_not_there(network, index):
    skipped = network(*inputs(), Perturbation("skip", (index,)))
    torch.testing.assert_close(skipped, without(network, index)(*inputs()))
    assert not torch.allclose(skipped, network(*inputs()))


def test_by_default_the_middle_is_perturbed(network):
    for kind in ("skip", "identity_attention"):
        assert torch.equal(network(*inputs(), Perturbation(kind)), network(*inputs(), Perturbation(kind, (1,))))


def test_under_identity_attention_image_tokens_do_not_look_at_one_another(network):
    latents, *rest = inputs()
    changed = latents.clone()
    changed[:, :, 0, 0] += 1.0
    everywhere = Perturbation("identity_attention", (0, 1))
    moved = (network(changed, *rest, everywhere) - network(latents, *rest, everywhere)).abs().amax((0, 1))
    assert moved[0, 0] > 1e-3 and moved.flatten()[1:].max() == 0
    seen = (network(changed, *rest) - network(latents, *rest)).abs().amax((0, 1))
    assert seen.flatten()[1:].min() > 0


def test_under_identity_attention_the_words_still_matter(network):
    latents, timestep, text, mask, pooled = inputs()
    everywhere = Perturbation("identity_attention", (0, 1))
    other = network(latents, timestep, text + 1.0, mask, pooled, everywhere)
    assert not torch.allclose(other, network(latents, timestep, text, mask, pooled, everywhere))
    hidden = torch.where(mask[..., None], text, 100.0)
    torch.testing.assert_close(
        network(latents, timestep, hidden, mask, pooled, everywhere),
        network(latents, timestep, text, mask, pooled, everywhere),
    )


def test_identity_attention_is_that_of_a_picture_of_one_token(network):
    given = inputs(height=1, width=1)
    torch.testing.assert_close(network(*given, Perturbation("identity_attention", (0, 1))), network(*given))


def test_a_block_that_is_not_there_cannot_be_perturbed(network):
    with pytest.raises(InputError, match="MiniTransformer2DModel has 2 blocks, 0 to 1, and cannot perturb 2"):
        network(*inputs(), Perturbation("skip", (0, 2)))
