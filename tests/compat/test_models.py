"""The models of a dialect pipeline: from a pool, on the device while they are needed, within `vram_limit`."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import calotype
from calotype.compat.diffsynth import BasePipeline, ModelConfig
from calotype.errors import ComponentError, ComponentNotLoaded, ConfigError, InputError, UnknownInput
from calotype.memory.residency import Residency
from calotype.weights.sources import is_resting
from compat.small import Small, small
from stubs import Ledger

EMOJI = Path(calotype.__file__).parent / "assets" / "emoji-64"
GIB = 2**30


def limited(limit, sizes, cls=Small):
    """A pipeline whose models take so many bytes, on a device of its own that holds `limit` bytes."""
    pipe = small(cls=cls)
    pipe._limit(limit / GIB)
    ledger = Ledger({getattr(pipe, n): s for n, s in sizes.items()}, start="cpu")
    pipe._residency = Residency(pipe._residency._sharers[0], torch.device("meta"), limit, transfer=ledger)
    pipe.vram_management_enabled = pipe.check_vram_management_state()
    names = {id(getattr(pipe, n)): n for n in sizes}
    return pipe, ledger, lambda: [(names[id(c)], where) for c, where in ledger.moves]


def test_models_come_when_needed_and_make_room_for_others():
    pipe, _, moves = limited(10, {"text_encoder": 6, "dit": 8, "vae": 4})
    assert pipe.vram_management_enabled
    pipe("a", seed=0, num_inference_steps=2)
    assert moves() == [
        ("text_encoder", "meta"), ("text_encoder", "cpu"), ("dit", "meta"), ("dit", "cpu"), ("vae", "meta"),
    ]  # fmt: skip


def test_without_a_limit_models_stay():
    pipe, _, moves = limited(100, {"text_encoder": 6, "dit": 8, "vae": 4})
    pipe("a", seed=0, num_inference_steps=2)
    pipe("b", seed=0, num_inference_steps=2)
    assert moves() == [("text_encoder", "meta"), ("dit", "meta"), ("vae", "meta")]
    assert not pipe._residency._held


def test_calls_that_compete_for_room_all_end():
    pipe, _, moves = limited(10, {"text_encoder": 6, "dit": 8, "vae": 4})
    alone = [np.asarray(pipe(f"prompt {k}", seed=k, num_inference_steps=3)) for k in range(4)]
    found = {}

    def call(k):
        found[k] = np.asarray(pipe(f"prompt {k}", seed=k, num_inference_steps=3))

    threads = [threading.Thread(target=call, args=(k,), daemon=True) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(found) == [0, 1, 2, 3]
    assert all(np.array_equal(found[k], alone[k]) for k in range(4))
    assert not pipe._residency._held and len(moves()) > 5


def test_nothing_is_held_after_a_call_that_fails():
    pipe, *_ = limited(10, {"text_encoder": 6, "dit": 8, "vae": 4})
    with pytest.raises(ZeroDivisionError):
        pipe("a", seed=0, progress_bar_cmd=lambda steps: [1 / 0 for _ in steps])
    assert not pipe._residency._held


def test_models_stay_on_the_device_until_the_call_asks_for_others():
    pipe, *_ = limited(10, {"text_encoder": 6, "dit": 8, "vae": 4})
    held = []

    def bar(steps):
        for step in steps:
            held.append(dict(pipe._residency._held))
            yield step

    pipe("a", seed=0, num_inference_steps=2, progress_bar_cmd=bar)
    assert held == [{id(pipe.dit): 1}] * 2 and not pipe._residency._held


class Early(Small):
    """Asks for the models of the loop before its units run."""

    def __call__(self, prompt, **inputs):
        self.load_models_to_device(self.in_iteration_models)
        return super().__call__(prompt, **inputs)


def test_a_unit_does_not_wait_for_what_its_own_call_holds():
    pipe, *_ = limited(10, {"text_encoder": 6, "dit": 8, "vae": 4}, cls=Early)
    found = []
    thread = threading.Thread(target=lambda: found.append(pipe("a", seed=0, num_inference_steps=2)), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert len(found) == 1


class Forgets(Small):
    """Does not ask for the models of the loop."""

    def load_models_to_device(self, model_names):
        if model_names != self.in_iteration_models:
            super().load_models_to_device(model_names)


def test_the_loops_models_are_on_the_device_though_the_call_does_not_ask_for_them():
    pipe, _, moves = limited(10, {"text_encoder": 6, "dit": 8, "vae": 4}, cls=Forgets)
    pipe("a", seed=0, num_inference_steps=2)
    assert moves() == [
        ("text_encoder", "meta"), ("text_encoder", "cpu"), ("dit", "meta"), ("dit", "cpu"), ("vae", "meta"),
    ]  # fmt: skip


def test_what_does_not_fit_is_refused_at_the_unit():
    pipe, *_ = limited(5, {"text_encoder": 6, "dit": 8, "vae": 4})
    with pytest.raises(ComponentError) as raised:
        pipe("a", seed=0)
    assert "Prompt: text_encoder must be on meta together and take 6 B, but vram_limit is 5 B" in str(raised.value)


def test_on_a_cpu_what_does_not_fit_at_all_is_refused():
    pipe = small()
    pipe.download_and_load_models([], vram_limit=1)
    pipe("a", seed=0, num_inference_steps=2)
    assert all(m.weight.device.type == "cpu" for m in (pipe.text_encoder, pipe.dit, pipe.vae))
    pipe.dit.table = nn.Parameter(torch.empty(2 * GIB // 4, device="meta"))
    with pytest.raises(ComponentError, match=r"dit must be on cpu together and take 2\.0 GiB, but vram_limit is"):
        pipe("a", seed=0)


@pytest.mark.parametrize("limit", [0, -1.0, "8GiB", True, float("nan")])
def test_a_limit_is_a_number_of_gib(limit):
    with pytest.raises(InputError, match="vram_limit is a number of GiB above 0"):
        small().download_and_load_models([], limit)


def test_models_are_asked_for_by_name():
    pipe = small()
    with pytest.raises(UnknownInput, match="load_models_to_device: Small has no model 'dti'; did you mean 'dit'"):
        pipe.load_models_to_device(["dti"])
    with pytest.raises(ComponentNotLoaded, match="Small needs 'controlnet', but was loaded without"):
        pipe.load_models_to_device(["controlnet"])
    pipe.load_models_to_device("dit")
    pipe.load_models_to_device(["dit", "controlnet"])  # one of several may be left out: an adapter
    pipe.load_models_to_device([])


DISK = {"offload_dtype": "disk", "offload_device": "disk", "onload_dtype": "disk", "onload_device": "disk"}


@pytest.mark.parametrize("fields", [{}, {"preparing_device": "cpu", "computation_dtype": torch.bfloat16, **DISK}])
def test_within_a_limit_models_wait_in_their_files(fields):
    pipe = BasePipeline(device="cpu", torch_dtype=torch.bfloat16)
    config = ModelConfig(path=str(EMOJI / "transformer"), **fields)
    network = pipe.download_and_load_models([config], vram_limit=0.005).fetch_model("mini_transformer")
    assert all(is_resting(p) for p in network.parameters() if p.numel() > 4096)
    with pytest.raises(ConfigError, match=r"offload_device can be 'cpu', got 'disk'.*or vram_limit=8"):
        BasePipeline(device="cpu").download_and_load_models([ModelConfig(path=str(EMOJI / "transformer"), **DISK)])


@pytest.mark.parametrize("limit", [None, 0.005])
def test_a_file_that_is_to_compute_elsewhere_is_refused(limit):
    config = ModelConfig(path=str(EMOJI / "transformer"), computation_device="meta")
    with pytest.raises(
        ConfigError, match="computation_device='meta', but a pipeline with a __call__ of its own runs on one device, "
        "which is 'cpu'; leave it out, or make the pipeline with device='meta'",
    ):  # fmt: skip
        BasePipeline(device="cpu").download_and_load_models([config], limit)
    here = ModelConfig(path=str(EMOJI / "transformer"), computation_device="cpu")
    assert "mini_transformer" in BasePipeline(device="cpu").download_and_load_models(here, limit)


def test_models_that_wait_in_their_files_are_read_to_be_converted():
    class One(BasePipeline):
        def __init__(self):
            super().__init__(device="cpu", torch_dtype=torch.bfloat16)
            self.dit = None

    pipe = One()
    pool = pipe.download_and_load_models([ModelConfig(path=str(EMOJI / "transformer"))], vram_limit=0.005)
    pipe.dit = pool.fetch_model("mini_transformer")
    pipe.to(torch.float32)
    assert not any(p.isnan().any() for p in pipe.dit.parameters())


def test_files_become_models_of_the_pipelines_type():
    pipe = BasePipeline(device="cpu", torch_dtype=torch.bfloat16)
    assert not pipe.check_vram_management_state()
    pool = pipe.download_and_load_models([ModelConfig(path=str(EMOJI / "vae"))], vram_limit=2.5)
    assert pool.fetch_model("mini_autoencoder").dtype is torch.bfloat16
    assert pipe.check_vram_management_state() and pipe.vram_limit == 2.5
