"""Packed networks under a budget: they stream from their files as whole ones do, and draw the same pictures."""

import pytest

from adapters.small import diffusers_keys, factors, written
from calotype import ModelConfig, ModelPool
from calotype.memory.storage import precision_of, store
from gguf_files import write_gguf

CALL = {"prompt": "a red apple", "seed": 1, "steps": 2}
BUDGET = {"cpu": "10MB", "transformer": "stream"}
"""Less than the networks together; the largest takes 9.2 MB."""


def picture(pipe):
    return pipe(**CALL).image.tobytes()


@pytest.fixture
def saved(pipeline, tmp_path):
    pipe = pipeline()
    store(pipe.transformer, {"*": "int8"})
    pipe.save_pretrained(tmp_path / "packed")
    return tmp_path / "packed", picture(pipe)


def test_memory_says_the_precision(pipeline):
    pipe = pipeline(memory={"transformer": "int8", "vae.decoder": "float8_e4m3fn"})
    assert set(precision_of(pipe.transformer).values()) == {"int8"}
    assert set(precision_of(pipe.vae).values()) == {"float8_e4m3fn"}


def test_a_network_that_was_saved_packed_streams_from_its_file(pipeline, saved):
    folder, whole = saved
    pipe = pipeline(folder, memory=BUDGET)
    assert "a pass from the disk" in str(pipe.plan(**CALL))
    assert picture(pipe) == whole and picture(pipe) == whole


def test_a_network_that_is_packed_while_it_loads_runs_under_a_budget(pipeline, saved):
    """What streams of it is smaller than the buffers for that, so that others leave although all of it would fit."""
    _, whole = saved
    assert picture(pipeline(memory={**BUDGET, "transformer.*": "int8"})) == whole


def test_a_gguf_file_streams(pipeline, tmp_path):
    state = {name: tensor.detach() for name, tensor in pipeline().transformer.state_dict().items()}
    kinds = {name: "Q8_0" for name, value in state.items() if name.startswith("blocks.") and value.shape[-1] % 32 == 0}
    kinds |= {name: "F32" for name in kinds if state[name].ndim == 1}
    path = write_gguf(tmp_path / "net.gguf", state, kinds)

    def transformer():
        return ModelPool(ModelConfig(path=path, config={"norm_eps": 1e-5, "sample_size": 8})).fetch_model(
            "mini_transformer"
        )

    streamed = pipeline(transformer=transformer(), memory=BUDGET)
    assert "a pass from the disk" in str(streamed.plan(**CALL))
    assert picture(streamed) == picture(pipeline(transformer=transformer()))


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_adapters_run_hot_beside_packed_weights_that_stream(pipeline, tmp_path, precision):
    source = pipeline()
    keys = diffusers_keys(factors(source.transformer, 2, seed=1, size=0.02), "transformer")
    lora = written(tmp_path / "lora.safetensors", keys)
    store(source.transformer, {"*": precision})
    source.save_pretrained(tmp_path / "packed")
    resident, streamed = pipeline(tmp_path / "packed"), pipeline(tmp_path / "packed", memory=BUDGET)
    plain = picture(resident)
    assert picture(streamed) == plain and "a pass from the disk" in str(streamed.plan(**CALL))
    for one in (resident, streamed):
        one.load_adapter(lora, "it", weight=0.8)
    assert picture(streamed) == picture(resident) != plain
    for one in (resident, streamed):
        one.set_adapters({"it": 0.3})
    assert picture(streamed) == picture(resident)
    streamed.unload_adapter("it")
    assert picture(streamed) == plain


def test_a_network_that_was_saved_packed_is_saved_and_packed_again_with_the_same_numbers(pipeline, saved, tmp_path):
    folder, whole = saved
    pipe = pipeline(folder, memory=BUDGET)
    pipe.save_pretrained(tmp_path / "again")
    again = pipeline(tmp_path / "again")
    assert set(precision_of(again.transformer).values()) == {"int8"} and picture(again) == whole
