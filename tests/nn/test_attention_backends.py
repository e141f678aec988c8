"""Attention backends: an explicit choice is taken or refused by name, never replaced."""

import sys
import types

import pytest
import torch

from calotype.errors import InputError, UnknownInput
from calotype.memory.peak import watched
from calotype.nn import attention_parts
from calotype.nn.attention_backends import attention_backend, is_better_without_mask


def parts():
    torch.manual_seed(0)
    return (torch.randn(2, 3, 5, 8) for _ in range(3))


def plain(query, key, value, mask=None):
    scores = query @ key.transpose(-1, -2) / 8**0.5
    return (scores if mask is None else scores.where(mask, -torch.inf)).softmax(-1) @ value


@pytest.mark.parametrize("name", ["sdpa", "flex"])
@torch.no_grad()
def test_those_that_come_with_the_library_are_plain_attention(name):
    query, key, value = parts()
    attend = attention_backend(name)
    torch.testing.assert_close(attend(query, key, value, None), plain(query, key, value), rtol=1e-5, atol=1e-5)
    mask = torch.arange(5) < 3
    for shape in (mask[None, None, None], mask.expand(2, 1, 5, 5)):
        masked = attend(query, key, value, shape)
        torch.testing.assert_close(masked, plain(query, key, value, shape), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_flexible_attention_that_is_not_compiled_is_seen_and_goes_in_parts(monkeypatch):
    """Its scores are counted by who watches memory, and are made a few heads at a time where that is asked for."""
    monkeypatch.setattr(attention_parts, "PART", 2 * 64 * 64)
    query, key, value = (torch.randn(2, 3, 64, 8) for _ in range(3))
    attend, mask = attention_backend("flex"), (torch.arange(64) < 40).expand(2, 3, 64, 64)
    with watched() as whole:
        expected = attend(query, key, value, mask)
    with watched() as sliced, attention_parts.in_parts():
        found = attend(query, key, value, mask)
    assert (whole.scores, sliced.scores) == (2 * 3 * 64 * 64, 2 * 64 * 64) and torch.equal(found, expected)
    assert sliced.peak < whole.peak


@pytest.mark.parametrize(("name", "package"), [("flash", "flash-attn"), ("sage", "sageattention")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, {"flash": "flash_attn", "sage": "sageattention"}[name], None)
    with pytest.raises(InputError, match=f'{name!r} needs the package {package}: pip install "{package}"'):
        attention_backend(name)


def test_packages_are_called_in_their_own_layout(monkeypatch):
    flash, sage = types.ModuleType("flash_attn"), types.ModuleType("sageattention")
    flash.flash_attn_func = lambda q, k, v: plain(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    sage.sageattn = lambda q, k, v, tensor_layout: plain(q, k, v) if tensor_layout == "HND" else None
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setitem(sys.modules, "sageattention", sage)
    for name in ("flash", "sage"):
        query, key, value = parts()
        attend = attention_backend(name)
        torch.testing.assert_close(attend(query, key, value, None), plain(query, key, value))
        with pytest.raises(InputError, match=f"{name!r} takes no mask"):
            attend(query, key, value, torch.ones(5, 5, dtype=torch.bool))


def test_an_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(UnknownInput, match="no attention backend 'sdpaa' is known; did you mean 'sdpa'"):
        attention_backend("sdpaa")


def test_items_are_attended_to_in_turn_where_fast_kernels_take_no_mask():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [is_better_without_mask(name, cpu) for name in ("sdpa", "flash", "sage", "flex")] == [0, 1, 1, 0]
    assert all(is_better_without_mask(name, gpu) for name in ("sdpa", "flash", "sage", "flex"))
