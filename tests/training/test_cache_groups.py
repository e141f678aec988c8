"""Rows of a cache that are computed several at a time: the same values within rounding, whoever computes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import tiny_sd
from calotype import StableDiffusionPipeline, StableDiffusionXLPipeline, TextToImagePipeline
from calotype.errors import ConfigError, GraphError, InputError, TrainingError
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline
from calotype.pipelines.latents import CleanLatents, latents, sigmas
from calotype.pipelines.pictures import Picture, fitted, to_array
from calotype.pipelines.stable_diffusion import sdxl_units, units
from calotype.sampling import Denoise
from calotype.training import Trainer, cache_fill
from calotype.training.cache import prepare_cache
from calotype.training.cache_groups import Job, group_values, grouped
from calotype.training.cache_keys import node_code
from calotype.training.cache_store import Store, read_manifest
from calotype.training.wires import trained_wires
from training.small import SmallPipeline, Words, color, files, image, noise, rows, small, start, velocity

CALLS: list[int] = []
ASKED = {"target": {"kind": "full", "component": "net", "result": "component"}, "steps": 3, "batch": 2}


def embeds_of_all(prompt: Sequence[str], *, words: Words) -> list[Tensor]:
    CALLS.append(len(prompt))
    return [words(one) for one in prompt]


@unit(together=embeds_of_all)
def embeds(prompt: str, *, words: Words) -> Tensor:
    """Encode one prompt."""
    return words(prompt)


@unit
def side(size: int) -> int:
    """A unit that is run for each row, before one that is run for all."""
    return size


def latents_of_all(image: Sequence[Picture], side: Sequence[int]) -> CleanLatents:
    CALLS.append(10 * len(image))
    return CleanLatents(torch.cat([to_array(fitted(one, side[0], side[0])) for one in image]))


@unit(together=latents_of_all)
def image_latents(image: Picture, side: int) -> CleanLatents:
    """A picture's values."""
    return CleanLatents(to_array(fitted(image, side, side)))


class Joint(SmallPipeline):
    units = (embeds, noise, side, image_latents, start, sigmas, latents, Denoise(velocity), image)


def values(folder: Path) -> dict[str, Tensor]:
    store = Store(folder, read_manifest(folder))
    return {key: store.get(key, Tensor) for file in store._where.values() for key in file.metadata}


def prepare(pipe: DiffusionPipeline, data: list[dict[str, Any]], folder: Path, **more: Any) -> dict[str, Tensor]:
    CALLS.clear()
    prepare_cache(pipe, trained_wires(pipe.graph, ["net"]), data, folder, **more)
    return values(folder)


def same(ones: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(ones[key], others[key]) for key in ones)


def test_rows_of_one_size_are_computed_together_and_the_last_that_are_left_too(tmp_path: Path) -> None:
    """Sizes that come in turn, a prompt that two rows share, and groups that are not full."""
    data = [{**row, "size": 8 if n % 3 else 12} for n, row in enumerate(rows(9))]
    data[7]["prompt"] = data[1]["prompt"]
    alone = prepare(small(Joint), data, tmp_path / "alone")
    assert not CALLS
    together = prepare(small(Joint), data, tmp_path / "together", batch=4)
    assert sorted(CALLS) == [3, 4, 30, 40]  # of the two that are left of size 8 one has its prompt from another row
    assert len(alone) == 17 and same(alone, together)


@pytest.mark.parametrize("workers", [1, 2])
def test_which_rows_make_a_group_follows_from_the_rows_alone(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a filling that was killed, and goes on with more processes, computes what one that was not would have."""
    made: list[list[str]] = []
    own = cache_fill.group_values

    def noted(pipe: Any, group: Any) -> Any:
        made.append([row["prompt"] for row, _ in group])
        return own(pipe, group)

    monkeypatch.setattr(cache_fill, "group_values", noted)
    monkeypatch.setattr(cache_fill, "ROWS_IN_A_SHARD", 8)
    monkeypatch.setattr(cache_fill, "LEAST", 8)
    data = files(tmp_path, 22)
    prepare(small(Joint), data, tmp_path / "whole", batch=4)
    whole, shards = list(made), sorted((tmp_path / "whole").glob("shard-*"))
    assert [len(group) for group in whole] == [4, 4, 4, 4, 4, 2] and len(shards) == 3
    shards[1].unlink()
    made.clear()
    prepare(small(Joint), data, tmp_path / "whole", batch=4, workers=workers)
    assert made and all(group in whole for group in made)


def test_two_processes_compute_the_same(tmp_path: Path) -> None:
    data = files(tmp_path, 21)
    one = prepare(small(Joint), data, tmp_path / "one", batch=4)
    assert same(one, prepare(small(Joint), data, tmp_path / "two", batch=4, workers=2))


def test_a_row_that_cannot_be_read_is_named_and_alone_is_left_out(tmp_path: Path) -> None:
    data = files(tmp_path, 6)
    data[2]["image"].write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2\.png is not a picture that can be read"):
        prepare(small(Joint), data, tmp_path / "cache", batch=4)
    assert CALLS == [3, 30, 2, 20] and len(values(tmp_path / "cache")) == 10
    data[4]["image"].write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2\.png is not a picture that can be read.*; and 1 more of the rows beside"):
        prepare(small(), data, tmp_path / "other")


def test_a_changed_row_is_computed_alone(tmp_path: Path) -> None:
    data = files(tmp_path, 5)
    prepare(small(Joint), data, tmp_path / "cache", batch=4)
    data[3]["prompt"] = "another"
    prepare(small(Joint), data, tmp_path / "cache", batch=4)
    assert not CALLS  # one row is no group


def refusing(prompt: Sequence[str], *, words: Words) -> Tensor:
    raise InputError("one of these is too long")


def other_number(prompt: Sequence[str], *, words: Words) -> list[Tensor]:
    return [words(prompt[0])]


def of_no_rows(prompt: Sequence[str], *, words: Words) -> Any:
    return 3.0


def too_large(prompt: Sequence[str], *, words: Words) -> Any:
    raise torch.OutOfMemoryError("out of memory")


def embedding(together: Callable[..., Any]) -> type[DiffusionPipeline]:
    def own(prompt: str, *, words: Words) -> Tensor:
        if prompt == "long":
            raise InputError("long is too long")
        return words(prompt)

    own.__name__ = "embeds"
    first = unit(together=together)(own)
    return type("Own", (SmallPipeline,), {"units": (first, *SmallPipeline.units[1:])})


def test_what_is_refused_of_several_is_asked_of_each(tmp_path: Path) -> None:
    data = rows(4)
    data[1]["prompt"] = "long"
    with pytest.raises(InputError, match=r"^the row prompt='long', image='<PIL.*>': long is too long$"):
        prepare(small(embedding(refusing)), data, tmp_path, batch=4)
    assert len(values(tmp_path)) == 6


def test_what_has_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"embeds together made 'embeds' a list of 1 for 2 rows; its first dimension"):
        prepare(small(embedding(other_number)), rows(2), tmp_path, batch=2)
    with pytest.raises(GraphError, match=r"embeds together made 'embeds' a float, of which no row has a part of its"):
        prepare(small(embedding(of_no_rows)), rows(2), tmp_path, batch=2)


def test_too_many_at_once_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"2 rows at a time take more memory than there is: out of memory; give a"):
        prepare(small(embedding(too_large)), rows(2), tmp_path, batch=2)


def test_rows_of_other_wires_sizes_and_options_are_groups_of_their_own() -> None:
    def job(todo: str, **inputs: Any) -> Job:
        return inputs, dict.fromkeys(todo, "key")

    jobs = [
        job("ab", prompt="a", size=8), job("a", prompt="b", size=8), job("ab", prompt="c", size=16),
        job("ab", prompt="d", size=8), job("ab", prompt=None, size=8), job("ab", prompt="e", size=8),
        job("ab", prompt="f", size=8, image=color(1, 2, 3)), job("ab", prompt="g", size=8, image=Path("g.png")),
    ]  # fmt: skip
    found = [[row["prompt"] for row, _ in group] for group in grouped(jobs, 2)]
    assert found == [["a", "d"], ["e"], ["b"], ["c"], [None], ["f", "g"]]
    assert grouped(jobs, 1) == [[job] for job in jobs]


def test_the_code_for_several_rows_counts_too() -> None:
    other = unit(together=other_number)(embeds.fn)
    assert len({node_code(embeds), node_code(other), node_code(unit(embeds.fn))}) == 3


def test_a_run_takes_it_as_a_setting_that_stays(tmp_path: Path) -> None:
    """Of a cache alone, and of a run that goes on too: its values are others by rounding."""
    with pytest.raises(ConfigError, match="cache_batch is of a cache, and there is none; give cache='cache'"):
        Trainer(small(Joint), rows(), tmp_path / "run", cache_batch=4, **ASKED)
    CALLS.clear()
    Trainer(small(Joint), rows(), tmp_path / "run", cache="cache", cache_batch=4, **ASKED).train(progress=False)
    assert CALLS == [4, 40]
    with pytest.raises(TrainingError, match="cache_batch was 4, is 1"):
        Trainer(small(Joint), rows(), tmp_path / "run", cache="cache", **ASKED).train(resume=True, progress=False)


# -- the pipelines' own units ------------------------------------------------------------------------------------------


def close_to_alone(pipe: DiffusionPipeline, denoiser: str, data: list[dict[str, Any]], joint: set[str]) -> None:
    """What a group gives is what its rows give, to 1e-5 of the largest value."""
    wires = trained_wires(pipe._graph(), [denoiser])
    assert {n.name for n in wires.cached if getattr(n, "together", None) is not None} == joint
    jobs = [(row, dict.fromkeys(wires.stored, "key")) for row in data]
    with torch.no_grad():
        together = group_values(pipe, jobs)
        alone = [group_values(pipe, [job])[0] for job in jobs]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys() == set(wires.stored)
        for wire, value in one.items():
            if isinstance(value, Tensor):
                largest = float(other[wire].float().abs().max())
                torch.testing.assert_close(value, other[wire], rtol=0, atol=1e-5 * largest)
            else:
                assert value == other[wire]


PROMPTS = ("a cat", "", "an (apple:1.4) on a table", " ".join(["cat"] * 90))
"""Of one chunk, of nothing, of a token that counts more, and of two chunks."""


def test_the_embedded_model_alone_and_together() -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", dtype="float32", device="cpu")
    data = [{"prompt": text, "image": color(50 * n, 9, 200)} for n, text in enumerate(("a red apple", "", "two cats"))]
    close_to_alone(pipe, "transformer", data, {"prompt_embeds", "image_latents"})


def test_stable_diffusion_alone_and_together(tmp_path: Path) -> None:
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path)
    data = [{"prompt": text, "image": tiny_sd.picture(seed=n)} for n, text in enumerate(PROMPTS)]
    close_to_alone(pipe, "unet", data, {"prompt_embeds", "image_latents"})


def test_each_prompt_of_a_batch_has_its_own_options(tmp_path: Path) -> None:
    """What the first has was taken for all."""
    reference = tiny_sd.reference_xl(diffusers.StableDiffusionXLPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionXLPipeline, reference, tmp_path)
    parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder")}
    more = {name: getattr(pipe, name) for name in ("tokenizer_2", "text_encoder_2")}
    texts = ["a cat", "(a dog:1.3)", " ".join(["cat"] * 90)]
    syntax, skips = ["weighted", "weighted", "plain"], [1, 0, 1]
    with torch.no_grad():
        each = units.embeds_of_all(texts, syntax, skips, **parts)
        pairs = sdxl_units.embeds_of_all(
            texts, [None, "a fox", None], syntax, skips, **parts, **more, force_zeros_for_empty_prompt=True
        )
        for number, text in enumerate(texts):
            one = units.prompt_embeds.fn(text, syntax[number], skips[number], **parts)
            torch.testing.assert_close(each[number], one, rtol=1e-5, atol=1e-5)
            other = sdxl_units.prompt_embeds.fn(
                text, "a fox" if number == 1 else None, syntax[number], skips[number], **parts, **more,
                force_zeros_for_empty_prompt=True,
            )  # fmt: skip
            torch.testing.assert_close(pairs[number], other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("refiner", [False, True])
def test_stable_diffusion_xl_alone_and_together(tmp_path: Path, refiner: bool) -> None:
    reference = tiny_sd.reference_xl(diffusers.StableDiffusionXLImg2ImgPipeline, refiner=refiner)
    pipe = tiny_sd.with_weights_of(StableDiffusionXLPipeline, reference, tmp_path)
    shown = [{"prompt": text, "image": tiny_sd.picture(seed=n)} for n, text in enumerate(PROMPTS)]
    data = [{**row, "prompt_2": "a dog"} if number == 2 else row for number, row in enumerate(shown)]
    close_to_alone(pipe, "unet", data, {"prompt_embeds", "image_latents"})
