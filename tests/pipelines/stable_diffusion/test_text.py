"""Prompts of any length for CLIP: tokens in chunks, their hidden states, and the weights on them."""

from typing import Any

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import calotype
from calotype.errors import InputError
from calotype.pipelines.stable_diffusion.sdxl_units import prompt_embeds as prompt_embeds_xl
from calotype.pipelines.stable_diffusion.text import encode, layer, tokenize, weighted
from calotype.pipelines.stable_diffusion.units import prompt_embeds
from tiny_sd import MERGES, spread, text_config, tiny_tokenizer


@pytest.fixture(scope="module", params=["transformers", "calotype"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(library: str) -> Any:
    theirs = tiny_tokenizer(pad_token="!")
    if library == "transformers":
        return theirs
    return calotype.CLIPTokenizer(theirs.get_vocab(), MERGES, pad_token="!", model_max_length=77)


@pytest.fixture(scope="module")
def encoder(tokenizer: Any, library: str) -> Any:
    torch.manual_seed(0)
    config = text_config(tokenizer)
    found = CLIPTextModel(config) if library == "transformers" else calotype.CLIPTextModel(**config.to_dict())
    spread(found)
    return found.eval().requires_grad_(False)


def embeds(prompt: str, tokenizer: Any, encoder: Any, syntax: Any = "weighted", skip: int = 0) -> torch.Tensor:
    return prompt_embeds(prompt, syntax, skip, tokenizer=tokenizer, text_encoder=encoder)


@pytest.mark.parametrize("prompt", ["", "a red cat", "red " * 75])
def test_what_fits_is_tokenized_as_its_library_does(prompt: str, tokenizer: Any, encoder: Any) -> None:
    chunks = tokenize(prompt, "weighted", tokenizer, encoder)
    wanted = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")
    assert torch.equal(chunks.ids, wanted.input_ids)
    assert torch.equal(chunks.mask.long(), wanted.attention_mask)
    assert torch.equal(chunks.weights, torch.ones(1, 77))


def test_a_longer_prompt_makes_more_chunks_and_loses_nothing(tokenizer: Any, encoder: Any) -> None:
    chunks = tokenize("cat " * 100 + "red " * 60, "weighted", tokenizer, encoder)
    assert chunks.ids.shape == (3, 77)
    rows = [row[mask].tolist()[1:-1] for row, mask in zip(chunks.ids, chunks.mask, strict=True)]
    assert [len(row) for row in rows] == [75, 75, 10]
    words = tokenizer.convert_ids_to_tokens([token for row in rows for token in row])
    assert words == ["cat</w>"] * 100 + ["red</w>"] * 60
    made = embeds("cat " * 100 + "red " * 60, tokenizer, encoder)
    assert made.shape == (1, 231, 16)
    assert torch.allclose(made[:, :77], embeds("cat " * 75, tokenizer, encoder), atol=1e-5)


def test_weights_go_to_the_tokens_of_their_words(tokenizer: Any, encoder: Any) -> None:
    chunks = tokenize("a (red cat:1.5) b", "weighted", tokenizer, encoder)
    assert chunks.weights[0, :6].tolist() == [1, 1, 1.5, 1.5, 1, 1]
    assert set(chunks.weights[0, 6:].tolist()) == {1.0}


def test_a_weight_is_the_distance_from_the_empty_prompt(tokenizer: Any, encoder: Any) -> None:
    plain, heavy, empty = (embeds(p, tokenizer, encoder) for p in ("a red cat", "a (red:1.5) cat", ""))
    wanted = plain.clone()
    wanted[:, 2] = empty[:, 2] + 1.5 * (plain[:, 2] - empty[:, 2])
    assert torch.allclose(heavy, wanted, atol=1e-5)
    assert not torch.allclose(heavy, plain, atol=1e-2)
    assert torch.equal(embeds("a (red:1.0) cat", tokenizer, encoder), plain)
    gone = embeds("a (red:0) cat", tokenizer, encoder)
    assert torch.allclose(gone[:, 2], empty[:, 2], atol=1e-5)


def test_brackets_of_a_plain_prompt_are_text(tokenizer: Any, encoder: Any) -> None:
    assert torch.equal(embeds("a (red:1.5)", tokenizer, encoder, "plain"), embeds(r"a \(red:1.5\)", tokenizer, encoder))


def test_weights_in_half_precision_are_computed_in_float32() -> None:
    hidden = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]], dtype=torch.float16)
    found = weighted(hidden, torch.tensor([[1.5]]))
    assert found.tolist() == [[[0.0, 2.0]]] and found.dtype == torch.float16
    assert weighted(hidden, torch.ones(2, 1)) is hidden


def test_layers_are_left_out_from_the_end(tokenizer: Any, encoder: Any) -> None:
    output = encode(tokenize("a red cat", "weighted", tokenizer, encoder), encoder)
    last = getattr(encoder, "text_model", encoder).final_layer_norm
    assert torch.allclose(last(layer(output, 0)), output.last_hidden_state, atol=1e-6)
    assert torch.equal(layer(output, 2), output.hidden_states[1])
    with pytest.raises(InputError, match="clip_skip leaves out 3 of the text encoder's 3 layers; leave at least one"):
        layer(output, 3)


def test_an_encoder_that_asks_for_it_is_told_what_is_padding(tokenizer: Any) -> None:
    torch.manual_seed(0)
    asked = CLIPTextModel(text_config(tokenizer, use_attention_mask=True)).eval()
    ids = tokenizer("a red cat", padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        wanted = asked(ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
        assert torch.allclose(embeds("a red cat", tokenizer, asked), wanted, atol=1e-6)


def test_two_texts_of_unequal_length_make_equally_many_chunks(tokenizer: Any, encoder: Any) -> None:
    torch.manual_seed(1)
    second = CLIPTextModelWithProjection(text_config(tokenizer, projection_dim=12)).eval().requires_grad_(False)
    parts = {
        "tokenizer": tokenizer, "text_encoder": encoder, "tokenizer_2": tokenizer, "text_encoder_2": second,
        "force_zeros_for_empty_prompt": True,
    }  # fmt: skip
    made = prompt_embeds_xl("red " * 80, "a cat", "weighted", 0, **parts)
    alone = prompt_embeds_xl("a cat", None, "weighted", 0, **parts)
    assert made.prompt_embeds.shape == (1, 154, 32)
    assert torch.allclose(made.pooled_embeds, alone.pooled_embeds, atol=1e-6)
    assert torch.allclose(made.prompt_embeds[:, :77, 16:], alone.prompt_embeds[..., 16:], atol=1e-5)
    nothing = prompt_embeds_xl("", None, "weighted", 0, **parts)
    assert not nothing.prompt_embeds.any() and not nothing.pooled_embeds.any()
    said = prompt_embeds_xl("", None, "weighted", 0, **{**parts, "force_zeros_for_empty_prompt": False})
    assert said.prompt_embeds.any() and said.pooled_embeds.any()
