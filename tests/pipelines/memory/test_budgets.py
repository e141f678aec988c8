"""Pipelines within budgets: the same pictures, whatever stays, streams or waits in its files."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adapters.small import diffusers_keys, factors, written
from calotype import DiffusionPipeline, TextToImagePipeline
from calotype.errors import ComponentError, InputError, UnknownInput, WeightsError
from calotype.memory.mapped import MappedPages
from calotype.memory.peak import watched

MODEL = "calotype/emoji-64"
CALL: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "seed": 7, "steps": 3}
BUDGETS: list[Any] = ["9.5MiB", "12MiB", "40MiB", {"cpu": "40MiB", "transformer": "stream"}]


def load(memory: Any = None, **options: Any) -> Any:
    return TextToImagePipeline.from_pretrained(MODEL, device="cpu", memory=memory, **{"memo": 0, **options})


def picture(pipe: Any, **call: Any) -> bytes:
    found: bytes = pipe(**{**CALL, **call}).image.tobytes()
    return found


@pytest.fixture(scope="module")
def plain() -> Any:
    return load()


@pytest.mark.parametrize("memory", BUDGETS)
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_every_budget_gives_the_same_picture(memory: Any, dtype: str) -> None:
    pipe, resident = load(memory, dtype=dtype), load(dtype=dtype)
    for _ in range(2):
        assert torch.equal(latents(pipe), latents(resident))
    assert pipe._residency._held == {}


def latents(pipe: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(**CALL, outputs=["latents"]).latents
    return found


def test_recipes_are_the_same_too(plain: Any) -> None:
    assert load("10MiB")(**CALL).recipe == plain(**CALL).recipe


def test_a_plan_says_what_stays_and_what_streams() -> None:
    pipe = load({"cpu": "40MiB", "transformer": "stream"})
    plan = pipe.plan(**CALL)
    assert plan.memory["text_encoder"].streamed == 0 and plan.memory["text_encoder"].waits == "disk"
    assert 8e6 < plan.memory["transformer"].streamed < plan.sizes["transformer"]
    assert "transformer: 1.3 MiB stays, 10.4 MiB a pass from the disk" in str(plan)
    narrow = load("12MiB").plan(**CALL)
    assert narrow.memory["vae"].comes == 2 and "comes 2 times" in str(narrow)
    assert narrow.predicted_peak < plan.predicted_peak < load().plan(**CALL).predicted_peak


def test_what_cannot_fit_is_refused_by_the_plan_with_what_can() -> None:
    pipe = load("1MiB")
    with pytest.raises(ComponentError, match=r"text_encoder.* give memory=\d+ \(bytes\) or more") as caught:
        pipe.plan(**CALL)
    enough = int(str(caught.value).rpartition("memory=")[2].partition(" ")[0])
    alone = {"prompt": "a cat", "outputs": ["prompt_embeds"]}
    found, expected = (pipe(**alone).prompt_embeds["positive"] for pipe in (load(enough), load()))
    assert torch.equal(found, expected)
    with pytest.raises(ComponentError, match="but the budget is"):
        load(enough - 1)(**alone)


def test_a_part_that_is_kept_is_not_streamed() -> None:
    pipe = load({"cpu": "11MiB", "transformer.blocks.2": "keep", "text_encoder": "keep"})
    assert torch.equal(latents(pipe), latents(load()))
    with pytest.raises(
        ComponentError,
        match=r"what is kept there and the largest others .*give memory=\d+ .*, or do not keep 'transformer'",
    ):
        load({"cpu": "10MiB", "transformer": "keep"}).plan(**CALL)


def test_threads_share_the_budget(plain: Any) -> None:
    pipe = load("10MiB")
    expected = [picture(plain, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda seed: picture(pipe, seed=seed), range(4), timeout=120)) == expected
    assert pipe._residency._held == {}


def test_steps_previews_and_the_memo(plain: Any) -> None:
    pipe = load("10MiB", memo="64MiB")
    stream = pipe.stream(**CALL)
    sizes = [event.preview()["image"].size for event in stream]
    assert sizes == [(64, 64)] * 3 and stream.result.image.tobytes() == picture(plain)
    hits = pipe.memo_info.hits
    assert picture(pipe) == picture(plain) and pipe.memo_info.hits > hits


def test_a_closed_stream_lets_go() -> None:
    pipe = load("10MiB")
    stream = pipe.stream(**CALL)
    next(stream)
    stream.close()
    assert pipe._residency._held == {} and not pipe._residency._places.window.is_busy
    assert picture(pipe) == picture(load())


def test_one_that_was_loaded_without_a_budget_may_have_one_later(plain: Any) -> None:
    assert picture(TextToImagePipeline(**load().components, device="cpu", memory="40MiB", memo=0)) == picture(plain)


def test_converting_brings_everything(plain: Any) -> None:
    pipe = load("10MiB")
    picture(pipe)
    pipe.to(dtype="float64")
    other = load().to(dtype="float64")
    assert torch.equal(pipe.transformer.blocks[0].to_qkv.weight, other.transformer.blocks[0].to_qkv.weight)


def test_no_call_begins_with_what_is_being_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load("10MiB")
    began, convert = threading.Event(), pipe.vae.to

    def use() -> None:
        with pipe._residency.hold({"vae": pipe.vae}):
            began.set()

    user = threading.Thread(target=use, daemon=True)

    def slowly(**options: Any) -> Any:
        user.start()
        assert not began.wait(0.1)
        return convert(**options)

    monkeypatch.setattr(pipe.vae, "to", slowly)
    pipe.to(dtype="bfloat16")
    user.join(5)
    assert began.is_set() and pipe.vae.dtype == torch.bfloat16


def test_a_change_that_cannot_be_noticed_is_kept_once_it_is_told() -> None:
    pipe, other = load("40MiB", dtype="auto"), load(dtype="auto")
    for one in (pipe, other):
        for parameter in one.transformer.parameters():
            parameter.data.mul_(0.5)
    pipe.changed("transformer")
    assert torch.equal(latents(pipe), latents(other))


def test_a_file_that_changes_between_calls(tmp_path: Path, plain: Any) -> None:
    plain.save_pretrained(tmp_path / "copy")
    pipe = TextToImagePipeline.from_pretrained(tmp_path / "copy", device="cpu", memory="10MiB", memo=0)
    assert torch.equal(latents(pipe), latents(plain))
    (file,) = (tmp_path / "copy" / "transformer").glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-8] + bytes(8))
    with pytest.raises(WeightsError, match=r"transformer.* was written to or replaced after it was opened, so that '"):
        pipe(**CALL)
    assert pipe._residency._held == {}


def test_what_memory_may_say() -> None:
    with pytest.raises(UnknownInput, match="memory: 'transfomer' is neither a device nor of a component; did you mean"):
        load({"transfomer": "stream"})
    with pytest.raises(InputError, match=r"'stream', which takes a budget of cpu; add one: memory=\{'cpu': '8GiB'"):
        load({"transformer": "stream"})
    with pytest.raises(
        InputError, match=r"memory\['transformer'\] must be one of keep, stream, .*; did you mean 'strea"
    ):
        load({"transformer": "streem"})
    with pytest.raises(InputError, match=r"memory\['cpu'\] must be a number of bytes"):
        load({"cpu": "8"})
    with pytest.raises(InputError, match="memory must be a number of bytes"):
        load("much")
    for said in ("keep", "int8"):
        with pytest.raises(
            InputError, match=rf"memory\['tokenizer'\] is '{said}', but tokenizer has no weights; leave"
        ):
            load({"cpu": "12MiB", "tokenizer": said})
    with pytest.raises(InputError, match=r"memory\['cuda:3'\] is a budget of a device that nothing runs on: cpu has"):
        DiffusionPipeline.from_pretrained(MODEL, memory={"cuda:3": "1GiB"}, device="cpu")


def test_weights_that_are_packed_stream_too() -> None:
    packed = load({"transformer": "int8"})
    small = load({"cpu": "10MiB", "transformer": "int8"})
    assert packed.plan(**CALL).sizes["transformer"] < 0.6 * load().plan(**CALL).sizes["transformer"]
    assert torch.equal(latents(small), latents(packed))
    assert isinstance(small.transformer, nn.Module)


@pytest.fixture(scope="module")
def adapters(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    pairs = factors(plain.transformer, 2, seed=1, size=0.02)
    keys = diffusers_keys(pairs, "transformer")
    size = {
        name: weight.norm(dim=1) * 1.1 for name, weight in plain.transformer.state_dict().items() if weight.ndim == 2
    }
    dora = keys | {
        f"transformer.{name}.lora_magnitude_vector": size[f"{name}.weight"]
        for name in pairs
        if f"{name}.weight" in size
    }
    norms = {
        f"transformer.{name.removesuffix('.weight')}.diff": torch.full(weight.shape, 0.5)
        for name, weight in plain.transformer.state_dict().items() if name.endswith(("norm_q.weight", "norm_k.weight"))
    }  # fmt: skip
    files = {"lora": keys, "dora": dora, "norms": norms}
    return {name: written(folder / f"{name}.safetensors", tensors) for name, tensors in files.items()}


@pytest.mark.parametrize("kind", ["lora", "dora", "norms"])
def test_adapters_run_beside_weights_that_stream(adapters: dict[str, Path], plain: Any, kind: str) -> None:
    pipe, other = load({"cpu": "24MiB", "transformer": "stream"}), load()
    for one in (pipe, other):
        picture(one)
        one.load_adapter(adapters[kind], "it", weight=0.8)
    assert torch.equal(latents(pipe), latents(other)) and not torch.equal(latents(pipe), latents(plain))
    pipe.unload_adapter("it")
    assert torch.equal(latents(pipe), latents(plain))


@pytest.mark.parametrize("kind", ["lora", "norms"])
def test_adapters_are_fused_into_weights_that_are_away(adapters: dict[str, Path], plain: Any, kind: str) -> None:
    pipe, other = load("40MiB"), load()
    for one in (pipe, other):
        one.load_adapter(adapters[kind], "it")
        one.fuse_adapters()
    assert torch.equal(latents(pipe), latents(other))
    pipe.unfuse_adapters()
    pipe.unload_adapter("it")
    assert torch.equal(latents(pipe), latents(plain))


@pytest.mark.parametrize("memory", BUDGETS)
def test_the_predicted_peak_is_the_measured_one(memory: Any) -> None:
    """All that is there within a fresh call: buffers, mapped weights that take turns, and what is computed."""
    pipe = load(memory, dtype="auto")
    predicted = pipe.plan(**CALL).predicted_peak
    turns: dict[Any, int] = {}
    most = [0]

    def bring(self: MappedPages, group: Any) -> None:
        turns[group] = group.nbytes
        most[0] = max(most[0], sum(turns.values()))

    with pytest.MonkeyPatch.context() as patch, watched() as watch:
        patch.setattr(MappedPages, "bring", bring)
        patch.setattr(MappedPages, "give_back", lambda self, group: turns.pop(group, None))
        pipe(**CALL)
    assert 0.9 < predicted / (watch.peak + most[0]) < 1.1


def test_what_is_saved_has_the_numbers_whether_they_are_in_memory_or_not(tmp_path: Path, plain: Any) -> None:
    pipe = load("10MiB")
    pipe.save_pretrained(tmp_path / "a")
    picture(pipe)
    pipe.save_pretrained(tmp_path / "b")
    for name in "ab":
        again = TextToImagePipeline.from_pretrained(tmp_path / name, device="cpu", memo=0)
        assert torch.equal(latents(again), latents(plain))
