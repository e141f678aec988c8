"""What is refused before the first step."""

import importlib.util
from pathlib import Path

import pytest

from adapters.small import written
from calotype import TextToImagePipeline
from calotype.errors import ComponentError, ConfigError, InputError, TrainingError
from calotype.training import FullWeights, LowRankChange, Trainer, TrainingConfig
from calotype.training.rows import Row
from training.runs import FULL, LORA
from training.small import color, rows, small


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


def test_what_could_not_be_saved_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"Words cannot be saved in a pipeline folder.*or train with result="):
        Trainer(small(), rows(), tmp_path, target=FullWeights(component="net"), steps=1).train(progress=False)


def test_adapters_that_would_be_lost_are_refused_before_all_weights_are_trained(tmp_path: Path) -> None:
    """They were refused after the last step, or what was learned went when they were unloaded."""
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    layer = "blocks.0.to_out"
    weight = pipe.transformer.get_submodule(layer).weight
    keys = {f"transformer.{layer}.lora_A.weight": weight[:1], f"transformer.{layer}.lora_B.weight": weight[:, :1]}
    pipe.load_adapter(written(tmp_path / "a.safetensors", keys), "a")
    data = [{"prompt": "a cat", "image": color(1, 2, 3, 64)}]
    refused = {"transformer": r"'transformer' has adapters \(a\)", "text_encoder": "'a' would not be in what is saved"}
    for component, message in refused.items():
        trainer = Trainer(pipe, data, tmp_path / "run", target=FullWeights(component=component), steps=1)
        with pytest.raises(ComponentError, match=message):
            trainer.train(progress=False)


def test_only_texts_can_be_left_out(tmp_path: Path) -> None:
    for name in ("image", "size"):
        with pytest.raises(ConfigError, match=f"dropout: '{name}' is no text"):
            Trainer(small(), rows(), tmp_path, steps=1, dropout={name: 0.5}, cache="cache", **LORA).prepare()


def test_a_target_that_does_not_fit_leaves_the_pipeline_as_it_was(tmp_path: Path) -> None:
    pipe = small()
    with pytest.raises(ConfigError, match="no layer of 'net' matches"):
        Trainer(pipe, rows(), tmp_path, steps=1, target=LowRankChange(component="net", layers="nope")).train()
    assert all(p.requires_grad for p in (*pipe.net.parameters(), *pipe.words.parameters()))


def test_a_second_precision_in_a_process_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path / "a", steps=1, **LORA).train(progress=False)
    with pytest.raises(ConfigError, match=r"precision: 'bf16' .* start another"):
        Trainer(small(), rows(), tmp_path / "b", steps=1, precision="bf16", **LORA).train(progress=False)


def test_optimizers_refuse_impossible_numbers_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="betas"):
        Trainer(small(), rows(), tmp_path, steps=1, optimizer={"kind": "adamw", "betas": (0.9, 1.5)}, **LORA)


def test_a_row_of_several_items_is_refused(tmp_path: Path) -> None:
    data = [{**row, "prompt": ["one", "two"]} for row in rows()]
    with pytest.raises(InputError, match="row 0: prompt has several items; a row is one"):
        Trainer(small(), data, tmp_path, steps=1, **LORA).train(progress=False)


def test_what_of_a_pair_would_not_be_used_is_refused(tmp_path: Path) -> None:
    data = [Row("one", rows(1)[0], rejected={"prompt": "another"})]
    with pytest.raises(InputError, match="one: prompt of what is liked less would not be used"):
        Trainer(small(), data, tmp_path, steps=1, objective={"kind": "preference"}, **LORA).train(progress=False)


def test_a_log_that_needs_a_package_says_so(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ConfigError, match="log='tensorboard' needs a package: pip install tensorboard"):
            Trainer(small(), rows(), tmp_path, steps=1, log=("tensorboard",), **LORA).train(progress=False)
    else:
        Trainer(small(), rows(), tmp_path, steps=1, log=("tensorboard",), **LORA).train(progress=False)
        assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_where_the_folder_should_be_is_refused_before_anything_is_computed(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    trainer = Trainer(small(), rows(), tmp_path / place, steps=1, cache=str(tmp_path / "cache"), **FULL)
    with pytest.raises(TrainingError, match=r"output: .* can be no folder, as .*file is a file; give another"):
        trainer.train(progress=False)
    assert not (tmp_path / "cache").exists() and (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(small(), rows(), tmp_path / "denied" / "run", steps=1, **FULL)

    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(TrainingError, match=r"output: .*run cannot be written to: .*Permission denied.*; give another"):
        trainer.train(progress=False)


def test_validation_looks_at_pictures(tmp_path: Path) -> None:
    looks = {"validation": {"every": 1, "calls": [{"prompt": "a"}, {"prompt": "a", "outputs": ["latents"]}]}}
    with pytest.raises(ConfigError, match=r"validation\.calls\[1\]: pictures are looked at, so leave out its outputs"):
        Trainer(small(), rows(), tmp_path, steps=1, **looks, **FULL).train(progress=False)


def test_no_path_is_no_folder(tmp_path: Path) -> None:
    """The folder that the run is started in would have been filled."""
    with pytest.raises(ConfigError, match="'cache': String should have at least 1 character"):
        Trainer(small(), rows(), tmp_path, steps=1, cache="", **FULL)
    fields = {"pipeline": "calotype/emoji-64", "data": {"kind": "folder", "path": "."}, "steps": 1, "output": ""}
    with pytest.raises(ValueError, match="at least 1 character"):
        TrainingConfig(**fields, **LORA)
