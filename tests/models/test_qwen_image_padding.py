"""Texts of several lengths in one batch of Qwen-Image: with a mask of their padding, and in runs that need none."""

import sys
from types import ModuleType

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from calotype.errors import InputError
from calotype.models.qwen_image import parts
from calotype.nn.perturbation import Perturbation
from calotype.nn.streams import Patches, Region, Words, references, regions
from models.small_qwen import BESIDE, DRAWN, assert_equal, inputs, pair


@torch.no_grad()
def test_padding_does_not_change_the_picture():
    ours, _ = pair()
    tokens, text = inputs([DRAWN])
    padded = torch.cat((text, torch.randn(1, 4, 20)), dim=1)
    mask = torch.arange(11)[None] < 7
    expected = ours(tokens, text, None, 0.5, [[DRAWN]]).sample
    torch.testing.assert_close(ours(tokens, padded, mask, 0.5, [[DRAWN]]).sample, expected, rtol=0, atol=1e-5)


@pytest.fixture
def attended(monkeypatch):
    """A kernel that takes no mask, and the items and tokens of every call of it."""
    shapes = []

    def kernel(query, key, value):
        shapes.append(tuple(query.shape[:2]))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return scaled_dot_product_attention(query, key, value).transpose(1, 2)

    package = ModuleType("flash_attn")
    package.flash_attn_func = kernel
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    return shapes


@torch.no_grad()
def test_padding_needs_no_mask_where_items_of_one_length_are_attended_to_together(attended):
    ours, _ = pair(zero_cond_t=True)
    tokens, text = inputs([DRAWN, BESIDE], batch=4)
    lengths = torch.tensor([7, 4, 4, 7])
    mask = torch.arange(7) < lengths[:, None]
    beside = Patches(tokens[:, -15:], BESIDE)
    ready = ours.prepare(text, [DRAWN], mask, conditions=[references(beside)])
    given = (tokens[:, :24], ours.modulate(0.5), ready)
    found = ours.predict(*given, attention="flash")
    assert attended == [(1, 46), (2, 43), (1, 46)] * 3  # 39 image tokens in each
    torch.testing.assert_close(found, ours.predict(*given), rtol=1e-5, atol=1e-5)
    theirs = pair(zero_cond_t=True)[1](tokens, text, mask.long(), torch.full((4,), 0.5), [[DRAWN, BESIDE]] * 4).sample
    assert_equal(found, theirs[:, :24])


@torch.no_grad()
def test_what_is_not_seen_in_the_midst_of_others_needs_a_mask(attended):
    ours, _ = pair()
    tokens, text = inputs([DRAWN])
    words = torch.tensor([[True, False, True, True, True, True, True]])
    area = torch.zeros(1, 4, 6)
    area[..., :3] = 1
    regional = regions(Region(Words(text[:, :3]), area))
    for mask, conditions in ((words, ()), (torch.arange(7)[None] < 4, (regional,))):
        ready = ours.prepare(text, [DRAWN], mask, conditions=conditions)
        with pytest.raises(InputError, match="'flash' takes no mask"):
            ours.predict(tokens, ours.modulate(0.5), ready, attention="flash")
    assert not attended
    ready = ours.prepare(text, [DRAWN], torch.arange(7)[None] < 4)
    with pytest.raises(InputError, match="takes no mask, which regions, perturbed attention"):
        away = Perturbation("identity_attention", (1,))
        ours.predict(tokens, ours.modulate(0.5), ready, attention="flash", perturbation=away)
    assert attended == [(1, 28)]  # the block before


def test_a_device_whose_fast_kernels_take_no_mask_is_spared_it(monkeypatch):
    """The same with PyTorch's own kernel, and backwards."""
    ours, _ = pair()
    tokens, text = inputs([DRAWN], batch=2)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    perturbed, gradients = [], []
    for apart in (False, True):
        monkeypatch.setattr(parts, "is_better_without_mask", lambda name, device, apart=apart: apart)
        joint = ours.prepare(text, [DRAWN], mask).joint("sdpa", several_times=False)
        assert joint.runs == (((1, 31), (1, 28)) if apart else ())
        assert joint.alone().runs == ()
        given = tokens, ours.modulate(0.5), ours.prepare(text, [DRAWN], mask)
        perturbed.append(ours.predict(*given, perturbation=Perturbation("identity_attention", (1,))).detach())
        ours.zero_grad()
        ours(tokens, text, mask, 0.5, [[DRAWN]]).sample.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None})
    torch.testing.assert_close(perturbed[1], perturbed[0], rtol=1e-5, atol=1e-5)
    assert len(gradients[0]) > 80
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
