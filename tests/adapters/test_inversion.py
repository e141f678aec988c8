"""Learned words: known to the tokenizer and the encoder while they are loaded, and then as if they had never been."""

import diffusers
import pytest
import torch
from transformers import CLIPTextModelWithProjection

import calotype
import tiny_sd
from adapters.small import random, same, weights_of, written
from calotype import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from calotype.adapters.inversion import Word, set_words
from calotype.errors import ComponentError, InputError, WeightsError
from calotype.pipelines.replay.again import replay
from calotype.pipelines.stable_diffusion.text import encode, tokenize


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The reference's pipelines, and their folders."""
    made = {
        "sd": tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline),
        "xl": tiny_sd.reference_xl(diffusers.StableDiffusionXLPipeline),
    }
    folder = tmp_path_factory.mktemp("pipelines")
    for name, pipe in made.items():
        pipe.save_pretrained(folder / name)
    return folder


@pytest.fixture
def pipe(folders):
    return StableDiffusionPipeline.from_pretrained(folders / "sd", device="cpu")


def states(pipe, prompt):
    with torch.no_grad():
        chunks = tokenize(prompt, "plain", pipe.tokenizer, pipe.text_encoder)
        return chunks.ids[0].tolist(), encode(chunks, pipe.text_encoder).last_hidden_state


def test_a_word_is_what_the_reference_makes_of_it(pipe, folders, tmp_path):
    path = written(tmp_path / "w.safetensors", {"<thing>": random(2, 16, seed=1)})
    before, plain = weights_of(pipe.text_encoder), states(pipe, "a red <thing> cat")
    own = pipe.tokenizer
    assert pipe.load_textual_inversion(path) == "<thing>"
    ids, found = states(pipe, "a red <thing> cat")
    reference = diffusers.StableDiffusionPipeline.from_pretrained(folders / "sd")
    reference.load_textual_inversion(str(path))
    prompt = reference.maybe_convert_prompt("a red <thing> cat", reference.tokenizer)
    tokens = reference.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")
    assert ids == tokens.input_ids[0].tolist() and {518, 519} <= set(ids)
    with torch.no_grad():
        expected = reference.text_encoder(tokens.input_ids).last_hidden_state
    assert (found - expected).abs().max() < 1e-5
    assert (found - plain[1]).abs().max() > 0.1
    assert same(pipe.text_encoder, before)
    pipe.unload_textual_inversion("<thing>")
    assert pipe.tokenizer is own and same(pipe.text_encoder, before)
    again = states(pipe, "a red <thing> cat")
    assert again[0] == plain[0] and torch.equal(again[1], plain[1])


def test_several_and_one_of_them_taken_away(pipe, tmp_path):
    vectors = {name: random(count, 16, seed=count) for name, count in (("one", 1), ("two", 2), ("three", 3))}
    for name, rows in vectors.items():
        path = written(tmp_path / f"{name}.safetensors", {"emb_params": rows})
        assert pipe.load_textual_inversion(path) == name
    ids, _ = states(pipe, "one two three")
    assert ids[1:7] == [518, 519, 520, 521, 522, 523]
    alone = states(pipe, "three")[1]
    pipe.unload_textual_inversion("two")
    ids, found = states(pipe, "three")
    assert ids[1:4] == [519, 520, 521] and torch.equal(found, alone)
    assert len(pipe.tokenizer("two", add_special_tokens=False).input_ids) == 3
    pipe.unload_textual_inversion()
    assert len(pipe.tokenizer) == 518 and not hasattr(pipe.text_encoder, "_adapters")


def test_a_picture_and_its_recipe(pipe, tmp_path):
    call = {"prompt": "a word cat", "seed": 1, "num_inference_steps": 2, "height": 16, "width": 16}
    plain = pipe(**call).image.tobytes()
    path = written(tmp_path / "w.safetensors", {"word": random(1, 16, seed=1) * 3})
    pipe.load_textual_inversion(path)
    result = pipe(**call)
    assert result.image.tobytes() != plain
    result.save(tmp_path / "cat.png")
    [record] = result.recipe.adapters
    assert record.word and (record.component, record.name) == ("text_encoder", "word")
    assert replay(tmp_path / "cat.png", pipe=pipe).identical
    with pytest.raises(ComponentError, match="'word' would not be in what is saved; call unload_textual_inversion"):
        pipe.save_pretrained(tmp_path / "saved")
    pipe.unload_textual_inversion()
    assert pipe(**call).image.tobytes() == plain
    with pytest.raises(ComponentError, match=r"made with the adapters 'word' \(text_encoder, a learned word, SHA-256"):
        replay(tmp_path / "cat.png", pipe=pipe)


def test_two_encoders(folders, tmp_path):
    pipe = StableDiffusionXLPipeline.from_pretrained(folders / "xl", device="cpu")
    path = written(tmp_path / "both.safetensors", {"clip_l": random(1, 16, seed=1), "clip_g": random(1, 16, seed=2)})
    assert pipe.load_textual_inversion(path, token="<both>") == "<both>"
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        assert tokenizer("<both>", add_special_tokens=False).input_ids == [518]
    for encoder, seed in ((pipe.text_encoder, 1), (pipe.text_encoder_2, 2)):
        rows = encoder.get_input_embeddings()(torch.tensor([518, 3]))
        assert torch.equal(rows[0], random(1, 16, seed=seed)[0])
        assert torch.equal(rows[1], encoder.get_input_embeddings().weight[3])
    pipe.unload_textual_inversion()
    assert len(pipe.tokenizer) == len(pipe.tokenizer_2) == 518


@torch.no_grad()
@pytest.mark.parametrize("library", ["transformers", "calotype"])
def test_the_end_of_a_prompt_is_found_behind_a_learned_word(library):
    """Encoders whose configuration says 2 look for the greatest token, which the word is."""
    tokenizer = tiny_sd.tiny_tokenizer()
    config = tiny_sd.text_config(tokenizer, projection_dim=12)
    config.eos_token_id = 2
    torch.manual_seed(0)
    encoder = CLIPTextModelWithProjection(config).eval()
    if library == "calotype":
        state = encoder.state_dict()
        encoder = calotype.CLIPTextModelWithProjection(**config.to_dict()).eval()
        encoder.load_state_dict(state)
    word = Word("<x>", random(1, 16, seed=1), "")
    plain = torch.tensor([[516, 3, 4, 517, 517]])
    before = encoder(plain).text_embeds
    set_words(encoder, "text_encoder_2", len(tokenizer), [word], tokenizer.eos_token_id)
    assert torch.equal(encoder(plain).text_embeds, before)
    made = encoder(torch.tensor([[516, 518, 4, 517, 517]]))
    expected = encoder.text_projection(made.last_hidden_state[:, 3])
    torch.testing.assert_close(made.text_embeds, expected)
    set_words(encoder, "text_encoder_2", len(tokenizer), [], tokenizer.eos_token_id)
    assert torch.equal(encoder(plain).text_embeds, before) and encoder.text_model.eos_token_id == 2


def test_the_embedded_model_learns_a_word(tmp_path):
    pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64", device="cpu")
    table = pipe.text_encoder.word_embedding.weight
    known = table[pipe.tokenizer.id_of["apple"]].detach().clone()
    apple = pipe(prompt="a red apple", seed=7, steps=3).image.tobytes()
    with pytest.raises(InputError, match="not in the vocabulary"):
        pipe(prompt="a red pomme", seed=7, steps=3)
    path = written(tmp_path / "pomme.safetensors", {"pomme": known})
    pipe.load_textual_inversion(path)
    assert pipe(prompt="a red pomme", seed=7, steps=3).image.tobytes() == apple
    assert pipe(prompt="a red apple", seed=7, steps=3).image.tobytes() == apple
    with pytest.raises(InputError, match="the token 'pomme' exists already; give token= another name"):
        pipe.load_textual_inversion(path)
    pipe.unload_textual_inversion("pomme")
    with pytest.raises(InputError, match="not in the vocabulary"):
        pipe(prompt="a red pomme", seed=7, steps=3)


@pytest.mark.parametrize(
    ("keys", "token", "error", "said"),
    [
        ({"cat</w>": (1, 16)}, None, InputError, "the token 'cat</w>' exists already"),
        ({"cat": (1, 16)}, None, InputError, "the token 'cat' exists already; give token= another name"),
        ({"<x>": (1, 24)}, None, WeightsError, "are 24 wide, those of 'text_encoder' are 16: the file is for another"),
        ({"<x>": (1, 2, 16)}, None, WeightsError, r"a learned word is \[vectors, width\], found \[1, 2, 16\]"),
        ({"a": (1, 16), "b": (1, 16)}, None, WeightsError, "holds no learned word: expected .* load_adapter"),
        ({"clip_g": (1, 16)}, "<x>", ComponentError, "for 'text_encoder_2', but the pipeline has no 'text_encoder_2'"),
    ],
)  # fmt: skip
def test_what_is_refused(pipe, tmp_path, keys, token, error, said):
    path = written(tmp_path / "w.safetensors", {key: random(*shape, seed=1) for key, shape in keys.items()})
    own = pipe.tokenizer
    with pytest.raises(error, match=said):
        pipe.load_textual_inversion(path, token)
    assert pipe.tokenizer is own and not hasattr(pipe.text_encoder, "_adapters")


def test_words_that_a_word_tokenizer_could_not_find(tmp_path):
    pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64", only=["tokenizer", "text_encoder"], device="cpu")
    width = pipe.text_encoder.word_embedding.embedding_dim
    path = written(tmp_path / "w.safetensors", {"<my-cat>": random(2, width, seed=1)})
    with pytest.raises(InputError, match="'<my-cat>' is not one lower-case word without punctuation"):
        pipe.load_textual_inversion(path)
    with pytest.raises(InputError, match="has 2 vectors; a WordTokenizer takes one"):
        pipe.load_textual_inversion(path, "mycat")
    with pytest.raises(InputError, match="there is no learned word 'mycat'; loaded are none"):
        pipe.unload_textual_inversion("mycat")
