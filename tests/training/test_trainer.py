"""Whole runs: resumed, killed, stopped by what cannot go on, and what they leave."""

import csv
import errno
import importlib.util
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype import TextToImagePipeline
from calotype.errors import ComponentError, ConfigError, InputError, TrainingError
from calotype.sampling import FlowMatchEuler
from calotype.training import FullWeights, LowRankChange, Trainer
from calotype.training.checkpoint import checkpoints, last_checkpoint, load_checkpoint
from calotype.training.log import Table, read_table
from calotype.training.rows import Row
from training.small import SETTINGS, OneByOne, Small, color, files, processes, rows, small, train_for_long

FULL = {"target": FullWeights(component="net", result="component"), "optimizer": {"kind": "adamw", "rate": 1e-2}}
LORA = {"target": LowRankChange(component="net", rank=2, layers="(into|to_q)")}


def weights(pipe: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in pipe.net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(folder: Path) -> dict[str, Tensor]:
    """Everything that the last checkpoint has of numbers."""
    last = load_checkpoint(last_checkpoint(folder) or folder)
    state = {f"{n}.{k}": v for n, values in last.optimizer["state"].items() for k, v in values.items()}
    return {**last.trained, **{f"average.{n}": v for n, v in (last.average or {}).items()}, **state}


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


def test_a_log_that_needs_a_package_says_so(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ConfigError, match="log='tensorboard' needs a package: pip install tensorboard"):
            Trainer(small(), rows(), tmp_path, steps=1, log=("tensorboard",), **LORA).train(progress=False)
    else:
        Trainer(small(), rows(), tmp_path, steps=1, log=("tensorboard",), **LORA).train(progress=False)
        assert list((tmp_path / "tensorboard").iterdir())


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    Trainer(small(), rows(5), folder, **SETTINGS).train(progress=False)
    return folder


def test_twenty_kills_at_random_moments_change_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    """SIGKILL twenty times while it trains, validates and writes; then to the end: every number is the same."""
    chance, kills = random.Random(0), 0
    while kills < 20:
        process = processes().Process(target=train_for_long, args=(tmp_path,))
        process.start()
        before = len(checkpoints(tmp_path)) and int(checkpoints(tmp_path)[-1].name[-8:])
        deadline = time.monotonic() + 20
        while process.is_alive() and time.monotonic() < deadline:  # until it has gone on by a step or so
            last = last_checkpoint(tmp_path)
            if last is not None and int(last.name[-8:]) > before:
                break
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        if not process.is_alive():
            process.join()
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills == 20, f"the run was over after {kills} kills"
    Trainer(small(), rows(5), tmp_path, **SETTINGS).train(resume=True, progress=False)
    assert same(saved(tmp_path), saved(uninterrupted))
    tables = [[{**row, "seconds": ""} for row in read_table(folder)] for folder in (tmp_path, uninterrupted)]
    assert tables[0] == tables[1]
    assert [row["step"] for row in tables[0]] == [str(n + 1) for n in range(40)]


def test_a_run_goes_on_for_longer(uninterrupted: Path, tmp_path: Path) -> None:
    """At a constant rate, more steps are the same as if they had been asked for at first."""
    settings = {**SETTINGS, "rate": {"curve": "constant"}, "checkpoint_every": 100}
    found = []
    for name, steps in (("at once", (9,)), ("in two", (4, 9))):
        for count in steps:
            pipe = small()
            Trainer(pipe, rows(5), tmp_path / name, **{**settings, "steps": count}).train(resume=True, progress=False)
        found.append(saved(tmp_path / name))
    assert same(*found)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(progress=False)
    result = Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False)
    assert (result.steps, result.loss) == (2, None)
    assert all(path.exists() for path in result.files)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(progress=False)
    with pytest.raises(TrainingError, match="has checkpoints, the last is checkpoint-00000002; go on from it with"):
        Trainer(small(), rows(), tmp_path, steps=4, **LORA).train(progress=False)
    with pytest.raises(TrainingError, match="is of another run: batch was 1, is 2"):
        Trainer(small(), rows(), tmp_path, steps=4, batch=2, **LORA).train(resume=True, progress=False)
    other = {"target": LowRankChange(component="net", rank=3, layers="(into|to_q)")}
    with pytest.raises(TrainingError, match=r"is of another run: target\.rank was 2, is 3\. Give the same"):
        Trainer(small(), rows(), tmp_path, steps=4, **other).train(resume=True, progress=False)
    with pytest.raises(TrainingError, match="is of another run: data was"):
        Trainer(small(), rows(3), tmp_path, steps=4, **LORA).train(resume=True, progress=False)


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path, name: str) -> None:
    Trainer(small(), rows(), tmp_path, steps=4, checkpoint_every=2, **LORA).train(progress=False)
    path = tmp_path / "checkpoint-00000004" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingError, match=r"go on from .*checkpoint-00000002 instead"):
        Trainer(small(), rows(), tmp_path, steps=8, **LORA).train(resume=True, progress=False)


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=6, checkpoint_every=1, keep=2, **LORA).train(progress=False)
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["5", "6"]
    assert not list(tmp_path.glob("*.removed")) and not list(tmp_path.glob("*partial*"))


# -- what cannot go on -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(tmp_path: Path) -> None:
    pipe = small()
    data = [*rows(), {"prompt": "bad", "image": color(1, 2, 3)}]
    trainer = Trainer(pipe, data, tmp_path, steps=50, checkpoint_every=1, **FULL)
    net, steps = pipe.net.forward, []

    def forward(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        steps.append(1)
        return net(x, sigma, text) * (float("nan") if len(steps) == 5 else 1.0)

    pipe.net.forward = forward
    with pytest.raises(TrainingError, match=r"step 5: the loss is nan; the last good checkpoint is .*00000004"):
        trainer.train(progress=False)
    assert all(value.isfinite().all() for value in weights(pipe).values())
    last = load_checkpoint(tmp_path / "checkpoint-00000004")
    assert same(dict(last.trained), weights(pipe))
    data = [{**row, "image": color(0, 0, 0)} for row in rows()]
    broken = {**FULL, "optimizer": {"kind": "sgd", "rate": 1e38}, "clip": None}
    with pytest.raises(TrainingError, match=r"no checkpoint was written yet\. A lower rate, .* may help$"):
        Trainer(small(), data, tmp_path / "none", steps=9, **broken).train(progress=False)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calotype.training.checkpoint as module

    write, count = module.write_safetensors, []

    def failing(path: Path, tensors: Any, *more: Any) -> None:
        count.append(path)
        if len(count) > 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, tensors, *more)

    monkeypatch.setattr(module, "write_safetensors", failing)
    with pytest.raises(TrainingError, match=r"step 2 could not be saved to .*No space left.*the last good .*01"):
        Trainer(small(), rows(), tmp_path, steps=5, checkpoint_every=1, **LORA).train(progress=False)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000001"]
    assert not list(tmp_path.glob("*partial*"))
    load_checkpoint(tmp_path / "checkpoint-00000001")


def test_what_a_late_row_lacks_is_said_before_the_first_step(tmp_path: Path) -> None:
    image = rows(1)[0]["image"]
    for row, message in (
        (
            {"prompt": "red"},
            "row 4: it makes no 'image_latents' to learn: image_latents is skipped because image is None",
        ),
        ({"image": image}, "row 4: 'prompt' is missing in this row of the data"),
        ({"promt": "red", "image": image}, "row 4: .*did you mean 'prompt'"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer(small(), [*rows(), row], tmp_path, steps=1, **LORA).train(progress=False)
    assert not list(tmp_path.iterdir())


def test_a_wrong_validation_call_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'prompt'"):
        Trainer(small(), rows(), tmp_path, steps=1, validation={"calls": [{"promt": "x"}]}, **LORA).train(
            progress=False
        )


def test_wrong_settings_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'stepz' is not a field; did you mean 'steps'"):
        Trainer(small(), rows(), tmp_path, stepz=2, **LORA)
    with pytest.raises(ConfigError, match="'steps' is missing"):
        Trainer(small(), rows(), tmp_path, **LORA)
    with pytest.raises(InputError, match="there are no rows"):
        Trainer(small(), [], tmp_path, steps=1, **LORA)
    with pytest.raises(InputError, match="row 0 must be a mapping of inputs or a Row, got str"):
        Trainer(small(), ["a"], tmp_path, steps=1, **LORA)  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="keeps all 1 rows out"):
        Trainer(small(), rows(1), tmp_path, steps=1, validation={"held_out": 0.9}, **LORA)
    with pytest.raises(ConfigError, match="dropout: there is no input 'promt'; did you mean 'prompt'"):
        Trainer(small(), rows(), tmp_path, steps=1, dropout={"promt": 0.1}, **LORA).train(progress=False)
    with pytest.raises(ConfigError, match="the share of 'prompt' must be between 0 and 1, got 10"):
        Trainer(small(), rows(), tmp_path, steps=1, dropout={"prompt": 10}, **LORA).train(progress=False)
    with pytest.raises(ConfigError, match="cache is not set"):
        Trainer(small(), rows(1), tmp_path, steps=1, **LORA).prepare()


# -- what a run shows --------------------------------------------------------------------------------------------------


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


def test_what_could_not_be_saved_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"Words cannot be saved in a pipeline folder.*or train with result="):
        Trainer(small(), rows(), tmp_path, target=FullWeights(component="net"), steps=1).train(progress=False)


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


def test_only_texts_can_be_left_out(tmp_path: Path) -> None:
    for name in ("image", "size"):
        with pytest.raises(ConfigError, match=f"dropout: '{name}' is no text"):
            Trainer(small(), rows(), tmp_path, steps=1, dropout={name: 0.5}, cache="cache", **LORA).prepare()


def test_a_target_that_does_not_fit_leaves_the_pipeline_as_it_was(tmp_path: Path) -> None:
    pipe = small()
    with pytest.raises(ConfigError, match="no layer of 'net' matches"):
        Trainer(pipe, rows(), tmp_path, steps=1, target=LowRankChange(component="net", layers="nope")).train()
    assert all(p.requires_grad for p in (*pipe.net.parameters(), *pipe.words.parameters()))


def test_a_disk_that_is_full_for_the_log_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: Table, values: Any) -> None:
        if values["step"] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Table, "write", write)
    with pytest.raises(TrainingError, match=r"step 3: .*No space left.*the last good checkpoint is .*00000002"):
        Trainer(small(), rows(), tmp_path, steps=4, checkpoint_every=1, **LORA).train(progress=False)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(TrainingError, match=r"step 0: .*run.*; no checkpoint was written yet"):
        Trainer(small(), rows(), tmp_path / "run", steps=1, **LORA).train(progress=False)


def test_what_others_are_writing_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    """Which may be any: `output: .` is where other programs write too."""
    other, own = tmp_path / "model.partial-0a1b2c3d", tmp_path / "log.csv.partial-0a1b2c3d"
    other.mkdir()
    own.write_text("step")
    Trainer(small(), rows(), tmp_path, steps=1, **LORA).train(progress=False)
    assert other.is_dir() and not own.exists()


def test_a_second_precision_in_a_process_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path / "a", steps=1, **LORA).train(progress=False)
    with pytest.raises(ConfigError, match=r"precision: 'bf16' .* start another"):
        Trainer(small(), rows(), tmp_path / "b", steps=1, precision="bf16", **LORA).train(progress=False)


def test_optimizers_refuse_impossible_numbers_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="betas"):
        Trainer(small(), rows(), tmp_path, steps=1, optimizer={"kind": "adamw", "betas": (0.9, 1.5)}, **LORA)


def test_a_run_on_other_weights_or_another_schedule_is_refused(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=1, **LORA).train(progress=False)
    others = small(), small(scheduler=FlowMatchEuler(shift=3.0))
    with torch.no_grad():
        others[0].net.into.weight.add_(1.0)
    for other in others:
        with pytest.raises(TrainingError, match=r"is of another run: base\.(net|words|scheduler) was"):
            Trainer(other, rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False)
    assert Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False).steps == 2


def test_a_run_of_another_network_of_the_same_weights_is_refused(tmp_path: Path) -> None:
    """A number of heads, for one, is in no weight."""
    Trainer(small(), rows(), tmp_path, steps=1, **FULL).train(progress=False)
    other = small()
    other.net.config = Small.Config(width=16)
    with pytest.raises(TrainingError, match=r"is of another run: networks\.net\.width was 8, is 16"):
        Trainer(other, rows(), tmp_path, steps=2, **FULL).train(resume=True, progress=False)
    state = tmp_path / "checkpoint-00000001" / "state.json"
    older = json.loads(state.read_text())
    del older["facts"]["networks"]
    state.write_text(json.dumps(older))
    wide = small(net=Small(width=16).eval())
    with pytest.raises(ConfigError, match=r"the checkpoint is of other parameters: blocks\.0\.bias"):
        Trainer(wide, rows(), tmp_path, steps=2, **FULL).train(resume=True, progress=False)
    assert Trainer(small(), rows(), tmp_path, steps=2, **FULL).train(resume=True, progress=False).steps == 2


def test_a_row_of_several_items_is_refused(tmp_path: Path) -> None:
    data = [{**row, "prompt": ["one", "two"]} for row in rows()]
    with pytest.raises(InputError, match="row 0: prompt has several items; a row is one"):
        Trainer(small(), data, tmp_path, steps=1, **LORA).train(progress=False)


def test_what_of_a_pair_would_not_be_used_is_refused(tmp_path: Path) -> None:
    data = [Row("one", rows(1)[0], rejected={"prompt": "another"})]
    with pytest.raises(InputError, match="one: prompt of what is liked less would not be used"):
        Trainer(small(), data, tmp_path, steps=1, objective={"kind": "preference"}, **LORA).train(progress=False)
