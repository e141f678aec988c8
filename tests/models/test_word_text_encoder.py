"""The tokenizer and the text encoder of the embedded model, called by hand on a tiny vocabulary."""

import json

import pytest
import torch
from torch.nn import functional as F

from calotype.errors import ConfigError, InputError, RepositoryError
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer

WORDS = ("a", "red", "apple", "3d", "dog")


@pytest.fixture
def tokenizer():
    return WordTokenizer(WORDS, max_length=6)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    network = WordTextEncoder(vocab_size=7, word_dim=4, hidden_size=8, num_layers=2, num_heads=2, max_length=6).eval()
    torch.nn.init.normal_(network.position_embedding)
    return network


def batch(tokenizer, *prompts):
    tokens = [tokenizer(prompt) for prompt in prompts]
    return torch.stack([t.ids for t in tokens]), torch.stack([t.mask for t in tokens])


def test_a_prompt_is_start_words_and_padding(tokenizer):
    tokens = tokenizer("A red  Apple!")
    assert tokens.ids.tolist() == [0, 2, 3, 4, 1, 1]
    assert tokens.mask.tolist() == [True, True, True, True, False, False]
    assert len(tokenizer) == 7


def test_the_empty_prompt_is_the_start_token_alone(tokenizer):
    tokens = tokenizer("")
    assert tokens.ids.tolist() == [0, 1, 1, 1, 1, 1]
    assert tokens.mask.sum() == 1


def test_the_longest_prompt_fits(tokenizer):
    assert tokenizer("a red dog a dog").mask.all()


def test_too_many_words_are_refused(tokenizer):
    with pytest.raises(InputError, match="at most 5 words, got 6"):
        tokenizer("a red dog a red dog")


def test_an_unknown_word_is_named_with_the_nearest(tokenizer):
    with pytest.raises(InputError, match="'aple' is not in the vocabulary; did you mean 'apple'"):
        tokenizer("a red aple")


def test_characters_that_are_not_words_are_refused_rather_than_dropped(tokenizer):
    with pytest.raises(InputError, match="🍎"):
        tokenizer("a red 🍎")


@pytest.mark.parametrize(
    ("words", "message"),
    [(("a", "a"), "more than once"), (("Red",), "'Red'"), (("two words",), "'two words'"), (("",), "''")],
)
def test_a_vocabulary_that_cannot_work_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        WordTokenizer(words)


def test_a_maximum_without_room_for_a_word_is_refused():
    with pytest.raises(ConfigError, match="max_length must be at least 2"):
        WordTokenizer(WORDS, max_length=1)


def test_a_saved_tokenizer_comes_back(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = WordTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert loaded.words == tokenizer.words
    assert loaded.max_length == tokenizer.max_length
    assert [path.name for path in (tmp_path / "tokenizer").iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"words": 3, "max_length": 4}), json.dumps({"words": "a"})])
def test_a_file_that_is_not_a_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(RepositoryError, match="not the file of a WordTokenizer"):
        WordTokenizer.from_pretrained(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RepositoryError, match=r"no tokenizer\.json"):
        WordTokenizer.from_pretrained(tmp_path)


def test_shapes_and_zeros_where_there_is_no_token(encoder, tokenizer):
    ids, mask = batch(tokenizer, "a red apple", "")
    out = encoder(ids, mask)
    assert out.hidden_states.shape == (2, 6, 8)
    assert out.pooled.shape == (2, 8)
    assert out.mask is mask
    assert (out.hidden_states[~mask] == 0).all()
    assert out.hidden_states.isfinite().all()


def test_a_prompt_does_not_depend_on_its_batch_or_padding(encoder, tokenizer):
    ids, mask = batch(tokenizer, "a red apple", "dog")
    together = encoder(ids, mask)
    alone = encoder(ids[:1, :4], mask[:1, :4])
    torch.testing.assert_close(together.hidden_states[:1, :4], alone.hidden_states)
    torch.testing.assert_close(together.pooled[:1], alone.pooled)


def test_order_matters_to_hidden_states_and_not_to_the_bag(encoder, tokenizer):
    ids, mask = batch(tokenizer, "a red dog", "dog red a")
    out = encoder(ids, mask)
    torch.testing.assert_close(out.pooled[0], out.pooled[1])
    assert not torch.allclose(out.hidden_states[0], out.hidden_states[1])


def test_vectors_and_ids_are_the_same_path(encoder, tokenizer):
    ids, mask = batch(tokenizer, "3d dog")
    torch.testing.assert_close(encoder(ids, mask), encoder.encode_vectors(encoder.word_embedding(ids), mask))


def test_one_block_equals_the_formula(encoder):
    """Attention and the gated layer written out with softmax and matrix products."""
    block = encoder.blocks[0]
    x = torch.randn(1, 5, 8)
    mask = torch.tensor([[True, True, True, False, True]])

    def normalized(values, norm):
        return values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-5) * norm.weight

    q, k, v = (normalized(x, block.norm1) @ block.to_qkv.weight.T).split(8, dim=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].mT / 2
        heads.append(scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ v[..., part])
    expected = x + torch.cat(heads, -1) @ block.to_out.weight.T
    gate, up = (normalized(expected, block.norm2) @ block.gate_up.weight.T).split(16, dim=-1)
    expected = expected + (F.silu(gate) * up) @ block.down.weight.T
    torch.testing.assert_close(block(x, mask), expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_weight(encoder, tokenizer):
    ids, mask = batch(tokenizer, "a red apple", "dog")
    out = encoder(ids, mask)
    (out.hidden_states.square().sum() + out.pooled[:, 0].sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_too_many_tokens_are_refused(encoder):
    ids = torch.zeros(1, 7, dtype=torch.int64)
    with pytest.raises(InputError, match="at most 6 tokens, got 7"):
        encoder(ids, ids == 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'vocab_size' is missing"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 4, "hidden_size": 10, "num_heads": 4}, "multiple of num_heads 4"),
        ({"vocab_size": 4, "layers": 2}, "'layers' is not a field"),
    ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        WordTextEncoder(**fields)
