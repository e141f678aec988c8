"""The cache of frozen units: the same losses and gradients, and exactly what changed is computed again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import tiny_sd
from calotype import StableDiffusionPipeline, TextToImagePipeline
from calotype.errors import ConfigError, InputError, TrainingError, WeightsError
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.latents import CleanLatents
from calotype.pipelines.pictures import Picture, to_array
from calotype.sampling import FlowMatchEuler, Scheduler
from calotype.training.cache import Cached, CacheReport, prepare_cache
from calotype.training.cache_keys import node_code
from calotype.training.cache_store import Store, read_manifest, write_shard
from calotype.training.items import Items
from calotype.training.objective import Denoising
from calotype.training.predictor import Predictor
from calotype.training.rows import Row
from calotype.training.wires import trained_wires
from training import small as module
from training.small import color, files, rows, small


def prepare(pipe: Any, data: list[Mapping[str, Any]], folder: Path, **more: Any) -> CacheReport:
    return prepare_cache(pipe, trained_wires(pipe.graph, ["net"]), data, folder, **more)


def gradients(
    pipe: Any, data: list[dict[str, Any]], source: Any = None, component: str = "net"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients of one batch."""
    wires, net = trained_wires(pipe.graph, [component]), getattr(pipe, component)
    named = [Row(str(n), one) for n, one in enumerate(data)]
    net.requires_grad_(True).zero_grad()
    batch = Items(pipe, wires, source).batch(named, data)
    losses = Denoising().loss(
        batch, Predictor(wires.loop, pipe.components), pipe.scheduler, torch.Generator().manual_seed(1)
    )
    losses.sum().backward()
    return losses.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


def test_gradients_are_the_same_bit_for_bit_with_the_cache_and_without(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    losses, wanted = gradients(pipe, data)
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=8, found=0)
    pipe.words.asked = 0
    cached = Cached(tmp_path / "cache", pipe, trained_wires(pipe.graph, ["net"]))
    again, found = gradients(pipe, data, cached)
    assert pipe.words.asked == 0
    assert torch.equal(again, losses)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_values_are_laid_out_alike_wherever_they_are_from(tmp_path: Path) -> None:
    """Else sums are of another order: a network may return a part of something, and a file has its own addresses."""
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / "pipe")
    data = [{"prompt": "cat", "image": tiny_sd.picture(seed=n), "height": 16, "width": 16} for n in range(3)]
    wires = trained_wires(pipe.graph, ["unet"])
    prepare_cache(pipe, wires, data, tmp_path / "cache")
    for source in (None, Cached(tmp_path / "cache", pipe, wires)):
        for number, row in enumerate(data):
            batch = Items(pipe, wires, source).batch([Row(str(number), row)], [row])
            for value in (batch.clean, batch.conditions["prompt_embeds"]):
                assert value.is_contiguous() and value.data_ptr() % 64 == 0
    losses, wanted = gradients(pipe, data, component="unet")
    again, found = gradients(pipe, data, Cached(tmp_path / "cache", pipe, wires), component="unet")
    assert torch.equal(again, losses) and all(torch.equal(found[name], wanted[name]) for name in wanted)


# -- what is computed again --------------------------------------------------------------------------------------------


def test_nothing_is_computed_twice(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=0, found=8)


def test_a_changed_text_computes_its_embedding_alone(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    data[2]["prompt"] = "another"
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=1, found=7)


def test_a_changed_picture_computes_its_latents_alone(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    color(1, 2, 3).save(data[2]["image"])
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=1, found=7)


def test_a_picture_that_was_only_touched_or_moved_is_the_same(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    data[0]["image"].touch()
    data[1]["image"] = data[1]["image"].rename(tmp_path / "moved.png")
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=0, found=8)


def test_a_changed_weight_computes_what_depends_on_it(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    with torch.no_grad():
        pipe.words.table.weight[7] += 1
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=4, found=4)
    with torch.no_grad():
        pipe.net.out.weight += 1  # is trained: nothing that is cached depends on it
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=0, found=8)


def test_a_changed_setting_of_all_rows_computes_what_reads_it(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    assert prepare(pipe, [{**row, "size": 4} for row in data], tmp_path / "cache") == CacheReport(computed=4, found=4)


def test_a_changed_unit_computes_what_it_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    before = node_code(module.image_latents)
    monkeypatch.setattr(module, "fitted", lambda picture, height, width: picture.resize((width, height), 0))
    monkeypatch.setattr(module.fitted, "__module__", "training.small", raising=False)
    assert node_code(module.image_latents) != before
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=4, found=4)


def scaled(by: int) -> Any:
    """A unit that knows a number from where it was defined."""

    @unit
    def image_latents(image: Picture, size: int) -> CleanLatents:
        return CleanLatents(to_array(image) * by * SCALE)

    return image_latents


SCALE = 2


class Helper:
    """What a unit may call."""

    def value(self) -> int:
        return 1


@unit
def helped() -> int:
    """Calls a method."""
    return Helper().value()


def test_numbers_and_methods_that_a_unit_refers_to_are_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_code(scaled(1)) == node_code(scaled(1)) != node_code(scaled(2))
    before = node_code(scaled(1)), node_code(helped)
    monkeypatch.setitem(globals(), "SCALE", 3)
    monkeypatch.setattr(Helper, "value", lambda self: 2)
    assert node_code(scaled(1)) != before[0]
    assert node_code(helped) != before[1]


class Anything:
    """An input that nothing is known of."""


class AnyInputs(module.SmallInputs):
    """With one."""

    anything: Any = None


@unit
def odd_embeds(prompt: str, anything: Any, *, words: module.Words, more: module.Words | None) -> Tensor:
    """Encode one prompt."""
    return words(prompt)


class OddPipeline(DiffusionPipeline):
    """Uses an input of any kind, and a component that may be missing."""

    words: module.Words
    more: module.Words | None
    net: module.Small
    scheduler: Scheduler

    units = (odd_embeds.renamed(odd_embeds="embeds"), *module.SmallPipeline.units[1:])
    __call__ = takes(AnyInputs)


def test_a_component_that_may_be_missing_is_no_hindrance_and_an_unknown_input_is_refused(tmp_path: Path) -> None:
    pipe = small(OddPipeline, more=None, scheduler=FlowMatchEuler())
    data = rows()
    assert prepare(pipe, data, tmp_path / "cache").computed == 8
    with pytest.raises(InputError, match="embeds reads anything, which cannot be told from other values"):
        prepare(pipe, [{**row, "anything": Anything()} for row in data], tmp_path / "cache")


def test_what_no_row_needs_any_more_is_removed(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    first = set((tmp_path / "cache").glob("shard-*"))
    prepare(pipe, [{**row, "prompt": "x", "size": 4} for row in data], tmp_path / "cache")
    assert not first & set((tmp_path / "cache").glob("shard-*"))


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_shard_is_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    (shard,) = (tmp_path / "cache").glob("shard-*")
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[:-20])
    elif damage == "changed":
        shard.write_bytes(content[:-20] + bytes(20))
    else:
        shard.unlink()
    report = prepare(pipe, data, tmp_path / "cache")
    assert (report.computed, report.damaged) == (8, (shard.name,))
    assert "is damaged or missing: its values are computed again" in caplog.text
    assert shard.read_bytes() == content


def test_shards_of_a_process_that_was_killed_count(tmp_path: Path) -> None:
    """Killed between its shards and the manifest."""
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    (tmp_path / "cache" / "manifest.json").unlink()
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=0, found=8)


def test_a_manifest_that_cannot_be_read_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe, data = small(), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache")
    (tmp_path / "cache" / "manifest.json").write_text("{")
    assert prepare(pipe, data, tmp_path / "cache") == CacheReport(computed=0, found=8)
    assert "not a manifest that can be read" in caplog.text
    assert json.loads((tmp_path / "cache" / "manifest.json").read_text())["version"] == 1


# -- the second phase --------------------------------------------------------------------------------------------------


def test_frozen_components_need_not_be_loaded(tmp_path: Path) -> None:
    folder, data = tmp_path / "pipe", [{**row, "prompt": "a red apple"} for row in files(tmp_path, 2)]
    whole = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    whole.save_pretrained(folder)
    whole = TextToImagePipeline.from_pretrained(folder, device="cpu")
    wires = trained_wires(whole.graph, ["transformer"])
    losses, wanted = gradients(whole, data, component="transformer")
    prepare_cache(whole, wires, data, tmp_path / "cache")

    frozen = {"vae": None, "text_encoder": None, "tokenizer": None}
    part = TextToImagePipeline.from_pretrained(folder, device="cpu", **frozen)
    again, found = gradients(part, data, Cached(tmp_path / "cache", part, wires), component="transformer")
    assert part.vae is part.text_encoder is None
    assert torch.equal(again, losses) and all(torch.equal(found[name], wanted[name]) for name in wanted)

    weights = folder / "text_encoder" / "model.safetensors"
    os.utime(weights, (1, 1))
    with pytest.raises(ConfigError, match="filled with a 'text_encoder' that is not loaded now, and its files"):
        Cached(tmp_path / "cache", part, wires)


def test_what_the_cache_does_not_have_is_named(tmp_path: Path) -> None:
    pipe, data = small(), files(tmp_path)
    wires = trained_wires(pipe.graph, ["net"])
    with pytest.raises(ConfigError, match="holds no cache; fill it with prepare_cache"):
        Cached(tmp_path / "cache", pipe, wires)
    prepare(pipe, data, tmp_path / "cache")
    cached = Cached(tmp_path / "cache", pipe, wires)
    with pytest.raises(TrainingError, match="has no 'embeds' of prompt='other'"):
        cached.values({**data[0], "prompt": "other"})


def test_a_row_without_an_optional_value_has_none_in_the_cache_too(tmp_path: Path) -> None:
    pipe, data = small(), [{"prompt": "red"}]
    prepare(pipe, data, tmp_path / "cache")
    cached = Cached(tmp_path / "cache", pipe, trained_wires(pipe.graph, ["net"]))
    assert cached.values(data[0])["image_latents"] is None


def test_pictures_in_memory_are_cached_by_content(tmp_path: Path) -> None:
    pipe, data = small(), rows()
    prepare(pipe, data, tmp_path / "cache")
    assert prepare(pipe, rows(), tmp_path / "cache") == CacheReport(computed=0, found=8)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        prepare(small(), [{"prompt": "red", "image": tmp_path / "gone.png"}], tmp_path / "cache")


# -- values ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    video: Tensor
    audio: Tensor


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = {
        "a": torch.randn(1, 2, dtype=torch.bfloat16),
        "b": (torch.arange(3), torch.ones(2, dtype=torch.bool)),
        "c": Parts(torch.ones(1), torch.zeros(2)),
        "d": 3.5,
    }
    write_shard(tmp_path, values)
    store = Store(tmp_path, read_manifest(tmp_path))
    assert torch.equal(store.get("a", Tensor), values["a"])
    assert [torch.equal(x, y) for x, y in zip(store.get("b", tuple), values["b"], strict=True)] == [True, True]
    parts = store.get("c", Parts)
    assert type(parts) is Parts and torch.equal(parts.audio, torch.zeros(2))
    assert store.get("d", float) == 3.5


def test_a_value_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a Image cannot be cached"):
        write_shard(tmp_path, {"a": color(1, 2, 3)})


def test_a_full_disk_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("calotype.training.cache_fill.write_shard", full)
    with pytest.raises(TrainingError, match=r"cache: .*No space left on device; what is done is kept, run it again"):
        prepare(small(), rows(), tmp_path / "cache")
