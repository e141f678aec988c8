"""Attention in parts: the numbers of the whole, in the memory of a part."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from calotype.memory.peak import watched
from calotype.nn import attention_parts
from calotype.nn.attention_control import AttentionControl, AttentionSite, Heads, controlled
from calotype.nn.attention_parts import head_parts, in_parts, is_in_parts

SITE = AttentionSite("blocks.0", 6, 5, 3)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_parts, "PART", 100)


def given(queries: int = 30, keys: int = 33) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, queries, 8), torch.randn(2, 4, keys, 8), torch.randn(2, 4, keys, 6)


MASKS = {
    "none": None,
    "keys": (torch.arange(33) < 20).view(1, 1, 1, 33),
    "rows": torch.rand(30, 33) < 0.7,
    "items": torch.linspace(-2, 1, 66).view(2, 1, 1, 33),
    "heads": torch.linspace(-2, 1, 4 * 30 * 33).view(1, 4, 30, 33),
    "without items": torch.linspace(-2, 1, 4 * 33).view(4, 1, 33),
}


@torch.no_grad()
@pytest.mark.parametrize("name", MASKS)
def test_parts_have_the_numbers_of_the_whole(name: str) -> None:
    query, key, value = given()
    with sdpa_kernel(SDPBackend.MATH):
        whole = scaled_dot_product_attention(query, key, value, attn_mask=MASKS[name])
        with in_parts():
            parts = scaled_dot_product_attention(query, key, value, attn_mask=MASKS[name])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@torch.no_grad()
def test_each_row_of_a_text_sees_what_is_before_it() -> None:
    query, key, value = given(33)
    whole = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    with in_parts():
        parts = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_mask_beside_a_causal_one_is_left_to_pytorch_which_refuses_it() -> None:
    query, key, value = given(33)
    mask = torch.zeros(query.shape[-2], key.shape[-2])
    with in_parts(), pytest.raises(RuntimeError, match="attn_mask should not be set when is_causal"):
        scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=True)


@torch.no_grad()
def test_no_more_scores_are_there_at_once_than_a_part_has() -> None:
    query, key, value = given()
    with sdpa_kernel(SDPBackend.MATH):
        with watched() as before:
            scaled_dot_product_attention(query, key, value)
        with in_parts(), watched() as after:
            scaled_dot_product_attention(query, key, value)
    assert before.scores == 2 * 4 * 30 * 33 and after.scores <= 100 and after.peak < before.peak / 4


@torch.no_grad()
def test_other_threads_and_what_comes_after_go_on_as_ever() -> None:
    found: list[bool] = []
    with in_parts():
        assert is_in_parts()
        thread = threading.Thread(target=lambda: found.append(is_in_parts()))
        thread.start()
        thread.join()
    assert found == [False] and not is_in_parts()


def test_gradients_are_those_of_the_whole() -> None:
    query, key, value = given()
    query.requires_grad_()
    with in_parts():
        scaled_dot_product_attention(query, key, value).sum().backward()
    assert query.grad is not None and query.grad.abs().sum() > 0


def test_heads_that_make_a_part_stay_together() -> None:
    assert head_parts(5, 40) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert head_parts(2, 1000) == [slice(0, 1), slice(1, 2)] and head_parts(2, 0) == [slice(0, 2)]


class Halved(AttentionControl):
    """Takes half of what the first item sees from the second."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def watches(self, site: AttentionSite) -> bool:
        return True

    def probabilities(self, site: AttentionSite, probabilities: Any) -> Any:
        self.shapes.append(probabilities.shape)
        return (probabilities + probabilities.flip(0)) / 2


class HalvedByHead(Halved):
    by_head = True


@torch.no_grad()
@pytest.mark.parametrize("bias", [None, torch.linspace(-2, 1, 33).view(1, 1, 1, 33), torch.rand(1, 4, 30, 33)])
def test_a_control_of_each_head_by_itself_sees_a_few_at_a_time(bias: Tensor | None) -> None:
    heads, whole, parts = Heads(*given(), bias), Halved(), HalvedByHead()
    expected = controlled([whole], SITE, heads)
    with in_parts():
        found = controlled([parts], SITE, heads)
        assert torch.equal(controlled([Halved()], SITE, heads), expected), "one that sees all heads does so"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert whole.shapes == [(2, 4, 30, 33)] and parts.shapes == [(2, 1, 30, 33)] * 4
