"""Textual inversion: a word is learned, nothing else is, and the reference reads it."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import tiny_sd
from calotype import StableDiffusionPipeline, TextToImagePipeline
from calotype.errors import ComponentError, ConfigError, InputError
from calotype.training import LearnedWord, Trainer
from training.small import color


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    return reference, tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path_factory.mktemp("sd"))


def learn(pipe: Any, folder: Path, **fields: Any) -> Any:
    target = LearnedWord(**{"token": "<blob>", **fields})
    data = [{"prompt": f"a {target.token}", "image": tiny_sd.picture(seed=n)} for n in range(3)]
    inputs = {"height": 16, "width": 16}
    run = Trainer(
        pipe, data, folder, target=target, inputs=inputs, steps=4, batch=2, optimizer={"kind": "sgd", "rate": 1}
    )
    return run.train(progress=False)


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_learned_word_loads_here_and_in_the_reference(pipes: tuple[Any, Any], tmp_path: Path, vectors: int) -> None:
    reference, pipe = pipes
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    tokenizer = pipe.tokenizer
    (file,) = learn(pipe, tmp_path, vectors=vectors, init="cat").files
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())
    assert pipe.tokenizer is tokenizer

    call = {"prompt": "red <blob>", "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 1.0}
    pipe.load_textual_inversion(file)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = pipe(**call, seed=1, given={"noise": latents}, outputs=["latents"])["latents"][0]
    pipe.unload_textual_inversion()
    reference.load_textual_inversion(str(file), token="<blob>")
    theirs = reference(**call, latents=latents, output_type="latent").images
    reference.unload_textual_inversion()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_the_words_vectors_move_and_only_they(pipes: tuple[Any, Any]) -> None:
    _, pipe = pipes
    trained = LearnedWord(token="<x>", init="cat").put(pipe, seed=0)
    (vectors,) = trained.parameters.values()
    ids = pipe.tokenizer("a <x>", return_tensors="pt").input_ids
    pipe.text_encoder.requires_grad_(False)
    pipe.text_encoder(ids).last_hidden_state.square().sum().backward()
    assert vectors.grad is not None and vectors.grad.abs().sum() > 0
    assert all(p.grad is None for p in pipe.text_encoder.parameters())
    trained.remove()


def test_a_word_of_the_embedded_model(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    data = [{"prompt": "a blurple apple", "image": color(88, 101, 242, 64)}]
    target = LearnedWord(token="blurple", init="blue")
    run = Trainer(pipe, data, tmp_path, target=target, steps=3, batch=2, optimizer={"kind": "adamw", "rate": 0.05})
    (file,) = run.train(progress=False).files
    blue = pipe(prompt="a blue apple", seed=1, steps=3).image.tobytes()
    pipe.load_textual_inversion(file)
    assert pipe(prompt="a blurple apple", seed=1, steps=3).image.tobytes() != blue


def test_wrong_words_are_refused(pipes: tuple[Any, Any], tmp_path: Path) -> None:
    _, pipe = pipes
    with pytest.raises(InputError, match="the token 'cat' exists already"):
        learn(pipe, tmp_path, token="cat")
    with pytest.raises(ComponentError, match="has no 'text_encoder_2' to train; did you mean 'text_encoder'"):
        learn(pipe, tmp_path, component="text_encoder_2")
    embedded = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    with pytest.raises(ConfigError, match="init: 'qwxz' is no word that the tokenizer knows"):
        LearnedWord(token="blurple", init="qwxz").put(embedded, seed=0)


def test_a_word_that_no_caption_has_is_refused(pipes: tuple[Any, Any], tmp_path: Path) -> None:
    data = [{"prompt": "a cat", "image": tiny_sd.picture(seed=1)}]
    run = Trainer(
        pipes[1], data, tmp_path, target=LearnedWord(token="<x>"), inputs={"height": 16, "width": 16}, steps=1
    )
    with pytest.raises(InputError, match="no text of the data has '<x>', so nothing would be learned"):
        run.train(progress=False)


def test_beside_words_that_are_loaded_nothing_is_taught(pipes: tuple[Any, Any], tmp_path: Path) -> None:
    _, pipe = pipes
    (file,) = learn(pipe, tmp_path / "one").files
    pipe.load_textual_inversion(file)
    tokenizer = pipe.tokenizer
    with pytest.raises(ComponentError, match="there are learned words already"):
        learn(pipe, tmp_path / "two", token="<x>")
    assert pipe.tokenizer is tokenizer
    pipe.unload_textual_inversion()
