"""Whole runs: they learn, are the same again, look on and leave what loads."""

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from calotype import TextToImagePipeline
from calotype.errors import TrainingError
from calotype.training import FullWeights, LowRankChange, Trainer
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from calotype.training.log import read_table
from calotype.training.rows import Row
from training.runs import FULL, LORA, same, weights
from training.small import OneByOne, Words, color, files, rows, small


def test_a_run_learns(tmp_path: Path) -> None:
    pipe = small()
    Trainer(pipe, rows(), tmp_path, steps=60, batch=4, **FULL).train(progress=False)
    losses = [float(row["loss"]) for row in read_table(tmp_path)]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_same_run_gives_the_same_weights(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        pipe = small()
        torch.manual_seed(len(found))  # what the caller's generator is at does not matter
        Trainer(pipe, rows(), tmp_path / name, steps=4, batch=2, **FULL).train(progress=False)
        found.append(weights(pipe))
    assert same(*found)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        pipe = small()
        Trainer(pipe, rows(), tmp_path / str(seed), steps=2, seed=seed, **FULL).train(progress=False)
        found.append(weights(pipe))
    assert not same(*found)


def test_accumulated_batches_move_the_weights_by_their_mean(tmp_path: Path) -> None:
    """At a rate so low that the second gradient is the same before and after the first: two steps of half a rate."""
    moved = []
    for steps, accumulate, rate in ((1, 2, 1e-4), (2, 1, 0.5e-4)):
        pipe = small()
        before = weights(pipe)
        Trainer(
            pipe, rows(), tmp_path / str(steps), steps=steps, batch=2, accumulate=accumulate, clip=None,
            target=FULL["target"], optimizer={"kind": "sgd", "rate": rate},
        ).train(progress=False)  # fmt: skip
        moved.append({name: value - before[name] for name, value in weights(pipe).items()})
    for name, value in moved[0].items():
        torch.testing.assert_close(value / 1e-4, moved[1][name] / 1e-4, rtol=1e-2, atol=1e-2)
        assert value.abs().max() > 0


def test_nothing_of_the_pipeline_is_left_changed(tmp_path: Path) -> None:
    pipe = small()
    before, flags = weights(pipe), [p.requires_grad for p in pipe.net.parameters()]
    Trainer(pipe, rows(), tmp_path, steps=2, recompute=True, **LORA).train(progress=False)
    assert same(weights(pipe), before)
    assert [p.requires_grad for p in pipe.net.parameters()] == flags
    assert not pipe.net.training
    assert not pipe.net.into._forward_hooks
    assert "forward" not in vars(pipe.net.blocks[0])


def test_recomputing_activations_gives_the_same_weights(tmp_path: Path) -> None:
    found = []
    for recompute in (False, True):
        pipe = small()
        Trainer(pipe, rows(), tmp_path / str(recompute), steps=3, recompute=recompute, **FULL).train(progress=False)
        found.append(weights(pipe))
    assert same(*found)


def test_with_the_cache_and_without_the_run_is_the_same(tmp_path: Path) -> None:
    data, found = files(tmp_path), []
    for cache in (None, "cache"):
        pipe = small()
        run = Trainer(pipe, data, tmp_path / str(cache), steps=5, batch=2, cache=cache, dropout={"prompt": 0.5}, **FULL)
        run.train(progress=False)
        found.append(weights(pipe))
    assert same(*found)


def test_without_a_cache_frozen_units_run_without_gradients_as_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks take other ways with gradients, whose last digits differ from those that a cache has."""
    with_gradients, forward = list[bool](), Words.forward
    monkeypatch.setattr(Words, "forward", lambda words, text: (
        with_gradients.append(torch.is_grad_enabled()) or forward(words, text)
    ))  # fmt: skip
    Trainer(small(), files(tmp_path), tmp_path / "run", steps=1, batch=2, **FULL).train(progress=False)
    assert with_gradients and not any(with_gradients)


def test_a_cache_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    trainer = Trainer(small(), rows(), tmp_path / "run", steps=1, cache="~/cache", **LORA)
    assert trainer.cache == tmp_path / "cache"


def test_a_predictor_of_one_level_trains_too(tmp_path: Path) -> None:
    """The same weights but for the order of sums."""
    found = []
    for cls in (type(small()), OneByOne):
        pipe = small(cls)
        pipe.net.drop.p = 0.0
        Trainer(pipe, rows(), tmp_path / cls.__name__, steps=3, batch=3, **FULL).train(progress=False)
        found.append(weights(pipe))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-4)


def test_times_are_float32_whatever_the_precision(tmp_path: Path) -> None:
    """A thousand timesteps would be 376 in bfloat16."""
    pipe = small()
    net, times, types = pipe.net.forward, [], []

    def forward(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        times.append(sigma)
        out = net(x, sigma, text)
        types.append(out.dtype)
        return out

    pipe.net.forward = forward
    run = Trainer(pipe, rows(), tmp_path, steps=50, batch=4, precision="bf16", **FULL)
    run.train(progress=False)
    found = torch.cat(times)
    assert set(types) == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert len((found * 1000).unique()) == 200
    assert all(p.dtype == torch.float32 for p in pipe.net.parameters())


def test_pictures_and_held_out_loss_at_intervals(tmp_path: Path) -> None:
    validation = {"every": 2, "held_out": 0.25, "calls": [{"prompt": "colour 1"}, {"prompt": "colour 2"}]}
    Trainer(small(), rows(8), tmp_path, steps=5, validation=validation, average=0.9, **FULL).train(progress=False)
    assert sorted(path.name for path in (tmp_path / "validation").iterdir()) == [
        f"step-0000000{step}-{number}.png" for step in (2, 4, 5) for number in (0, 1)
    ]
    with (tmp_path / "log.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [bool(row["held_out"]) for row in table] == [False, True, False, True, True]


def test_looking_on_changes_nothing(tmp_path: Path) -> None:
    found = []
    for every in (1, 100):
        pipe = small()
        validation = {"every": every, "held_out": 0.25, "calls": [{"prompt": "colour 1"}]}
        Trainer(pipe, rows(), tmp_path / str(every), steps=4, validation=validation, **FULL).train(progress=False)
        found.append(weights(pipe))
    assert same(*found)


def test_full_weights_are_saved_as_a_repository(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    data = [{"prompt": "a red apple", "image": color(250, 240, 10, 64)}]
    target = FullWeights(component="transformer", only=r"^blocks\.0\.")
    result = Trainer(pipe, data, tmp_path, target=target, steps=2, average=0.5).train(progress=False)
    again = TextToImagePipeline.from_pretrained(result.files[0], device="cpu")
    averaged = load_checkpoint(last_checkpoint(tmp_path) or tmp_path).average
    assert averaged
    own = again.transformer.state_dict()
    assert all(torch.equal(own[name], value) for name, value in averaged.items())
    assert not torch.equal(own["blocks.0.to_out.weight"], pipe.transformer.state_dict()["blocks.0.to_out.weight"])


def test_a_lora_of_the_embedded_model_runs_in_it(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    data = [{"prompt": "a red apple", "image": color(250, 240, 10, 64)}]
    call = {"prompt": "a red apple", "seed": 1, "steps": 4}
    before = pipe(**call).image.tobytes()
    target = LowRankChange(component="transformer", rank=4)
    run = Trainer(pipe, data, tmp_path, target=target, steps=8, batch=4, optimizer={"kind": "adamw", "rate": 1e-2})
    result = run.train(progress=False)
    assert pipe(**call).image.tobytes() == before
    pipe.load_adapter(result.files[0])
    after = pipe(**call).image.tobytes()
    assert after != before
    pipe.unload_adapter()
    pipe.load_adapter(result.files[1])  # kohya's spelling of the same
    assert pipe(**call).image.tobytes() == after


def test_held_out_rows_of_several_sizes_are_batched_apart(tmp_path: Path) -> None:
    data = [Row(str(n), {**row, "size": 8 * (1 + n % 2)}, bucket=n % 2) for n, row in enumerate(rows(8))]
    Trainer(small(), data, tmp_path, steps=1, batch=4, validation={"held_out": 0.5}, **LORA).train(progress=False)
    assert float(read_table(tmp_path)[-1]["held_out"]) > 0.0


def test_calls_and_common_inputs_may_have_pictures(tmp_path: Path) -> None:
    prompts = [{"prompt": row["prompt"]} for row in rows()]
    for green in (10, 20):
        common = {
            "inputs": {"image": color(0, green, 0)},
            "validation": {"calls": [{"prompt": "a", "image": color(9, 9, 9)}]},
        }
        trainer = Trainer(small(), prompts, tmp_path, steps=2, **common, **LORA)
        if green == 10:
            trainer.train(progress=False)
            assert json.loads((tmp_path / "settings.json").read_text())["steps"] == 2
    with pytest.raises(TrainingError, match=r"of another run: inputs\.image was"):
        trainer.train(resume=True, progress=False)
