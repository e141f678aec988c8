"""`calotype train`: a run from a file, in two phases, and gone on with."""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import Result
from PIL import Image

from calotype import TextToImagePipeline, UNet2DModel
from calotype.memory.storage import precision_of
from calotype.training import Trainer, TrainingResult
from calotype.training.log import read_table
from training.small import processes

Run = Callable[..., Result]

CONFIG = """
pipeline: {repo}
data: {{kind: folder, path: pictures}}
output: run
target: {{kind: lora, component: transformer, rank: 2}}
inputs: {{height: 16, width: 16}}
steps: 3
batch: 2
device: cpu
"""


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def config(here: Path, repo: Path) -> Path:
    """A run on three pictures."""
    (here / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 9, 9)).save(here / "pictures" / f"{number}.png")
        (here / "pictures" / f"{number}.txt").write_text("a red apple")
    path = here / "config.yaml"
    path.write_text(CONFIG.format(repo=repo))
    return path


@pytest.fixture
def quick() -> Iterator[None]:
    """What fills a cache starts with everything imported, in place of importing it for seconds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.multiprocessing, "get_context", lambda _: processes())
        yield


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """Those that have trained in this process."""
    from calotype.training import config

    found: list[Trainer] = []

    class Noted(config.Trainer):
        def train(self, **options: bool) -> TrainingResult:
            found.append(self)
            return super().train(**options)

    monkeypatch.setattr(config, "Trainer", Noted)
    return found


def test_trains_and_prints_what_it_wrote(run: Run, config: Path, repo: Path) -> None:
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    files = result.stdout.split()
    assert files == ["run/result/pytorch_lora_weights.safetensors", "run/result/kohya.safetensors"]
    pipe = TextToImagePipeline.from_pretrained(repo, device="cpu")
    assert pipe.load_adapter(files[0]).layers == {"transformer": 2}


def test_frozen_components_are_not_loaded_in_the_second_phase(run: Run, config: Path, trainers: list[Trainer]) -> None:
    """The same losses as in one phase, by a pipeline that holds the transformer alone."""
    assert run("train", config, "--quiet").exit_code == 0
    whole = [row["loss"] for row in read_table(Path("run"))]
    config.write_text(config.read_text().replace("output: run", "output: again\ncache: cache"))
    assert run("train", config, "--quiet").exit_code == 0
    assert {name for name, c in trainers[-1].pipe.components.items() if c is not None} == {"transformer", "scheduler"}
    assert [row["loss"] for row in read_table(Path("again"))] == whole


def test_goes_on_with_resume(run: Run, config: Path) -> None:
    assert run("train", config, "--quiet").exit_code == 0
    config.write_text(config.read_text().replace("steps: 3", "steps: 5"))
    again = run("train", config, "--quiet")
    assert again.exit_code == 1
    assert "go on from it with resume=True (calotype train --resume), or give another folder" in again.stderr
    assert run("train", config, "--quiet", "--resume").exit_code == 0
    assert len(read_table(Path("run"))) == 5


def test_json_is_read_too(run: Run, config: Path, here: Path, repo: Path) -> None:
    fields = {
        "pipeline": str(repo), "data": {"kind": "folder", "path": "pictures"}, "output": "run", "steps": 1,
        "target": {"kind": "lora", "component": "transformer"}, "inputs": {"height": 16, "width": 16}, "device": "cpu",
    }  # fmt: skip
    (here / "config.json").write_text(json.dumps(fields))
    assert run("train", "config.json", "-q").exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps: 3", "stepz: 3"), "'stepz' is not a field; did you mean 'steps'?"),
        (("rank: 2", "rank: none"), "'target.lora.rank'"),
        (("{kind: lora", "{kind: [lora"), "is not YAML"),
        (
            ("data: {kind: folder, path: pictures}", "data: 5"),
            "'data' must have a 'kind', one of 'dataset', 'folder', ",
        ),
        (("target: {kind: lora", "target: lora #"), "'target' must have a 'kind', one of 'full', 'lora', 'word', and"),
        (("steps: 3", "on: 3"), "Keys should be strings, got True"),
        (("path: pictures", "path: gone"), "data: there is no folder gone"),
        (("kind: folder", "kind: folders"), "'data'"),
        (("kind: folder", "kind: tars"), "data: the folder pictures has no .tar files"),
        (("batch: 2", "objective: {kind: distribution_matching, critic_update: 1}"), "critic_update"),
        (("batch: 2", "precision: fp16\nobjective: {kind: distribution_matching}"), "scales one loss"),
        (("batch: 2", "log: [wandbe]"), "'log.0'"),
        (("component: transformer", "component: transformr"), "did you mean 'transformer'"),
    ],
)
def test_what_is_wrong_is_named(run: Run, config: Path, change: tuple[str, str], message: str) -> None:
    config.write_text(config.read_text().replace(*change))
    result = run("train", config, "--quiet")
    assert result.exit_code == 1
    assert message in result.stderr
    assert not Path("run").exists()


def test_a_config_that_is_not_there(run: Run) -> None:
    result = run("train", "gone.yaml")
    assert result.exit_code == 1 and "gone.yaml cannot be read" in result.stderr


def test_prepare_needs_a_cache(run: Run, config: Path) -> None:
    result = run("train", config, "--prepare")
    assert result.exit_code == 2
    assert "the config has none" in result.stderr


@pytest.mark.usefixtures("quick")
def test_a_base_in_few_bits_and_a_type_are_of_the_config(
    run: Run, config: Path, repo: Path, wide: Path, trainers: list[Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    """With a cache the components that are stored in few bits are not all loaded, and nothing is said of those."""
    more = "dtype: {text_encoder: float16}\nmemory: {transformer: int8, text_encoder: int8}\n"
    text = config.read_text().replace(str(repo), str(wide)) + more
    for name, cache in (("one", ""), ("two", "cache: cache\n")):
        config.write_text(text.replace("output: run", f"output: {name}") + cache)
        result = run("train", config, "--quiet")
        assert result.exit_code == 0, result.output
        assert len(read_table(Path(name))) == 3
    whole, rest = (trainer.pipe for trainer in trainers)
    assert set(precision_of(whole.text_encoder).values()) == {"int8"} and whole.text_encoder.dtype == torch.float16
    assert precision_of(whole.transformer) == precision_of(rest.transformer) != {}
    assert rest.text_encoder is None and not caplog.messages


def test_a_tar_is_data_too(run: Run, config: Path) -> None:
    with tarfile.open("pictures.tar", "w") as archive:
        for path in sorted(Path("pictures").iterdir()):
            archive.add(path, path.name)
    config.write_text(config.read_text().replace("{kind: folder, path: pictures}", "{kind: tars, path: pictures.tar}"))
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output


def test_everything_that_can_be_asked_for_is_read_from_a_config(run: Run, config: Path) -> None:
    """A run of the second objective with a critic, in 8 bits, with a log and a bucket."""
    more = """
objective: {kind: distribution_matching, steps: 2, critic_updates: 1, critic: {kind: adamw, rate: 1.0e-3}}
optimizer: {kind: adamw, eight_bit: true}
recompute: true
average: 0.9
accumulate: 2
rate: {curve: cosine, warmup: 1}
checkpoint_every: 1
log: [csv]
"""
    text = config.read_text().replace("inputs: {height: 16, width: 16}", "").replace("steps: 3", "steps: 1")
    buckets = "buckets: {area: 256, multiple: 16}, broken: 1, check: size"
    config.write_text(text.replace("path: pictures", f"path: pictures, {buckets}") + more)
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    assert float(read_table(Path("run"))[0]["critic"]) > 0.0


@pytest.mark.usefixtures("quick")
def test_texts_alone_and_pairs_are_data_too(run: Run, config: Path) -> None:
    Path("texts.txt").write_text("a red apple\na blue car\n")
    line = {"file_name": "0.png", "text": "a red apple", "worse": "1.png"}
    Path("pictures/metadata.jsonl").write_text(json.dumps(line))
    text, learned = config.read_text(), {}
    for kind, data, steps in (
        ("direct_distillation", "{kind: texts, path: texts.txt}", ", steps: 1, teacher_steps: 2"),
        ("preference", "{kind: folder, path: pictures, rejected: worse}", ""),
    ):
        changed = text.replace("{kind: folder, path: pictures}", data).replace("output: run", f"output: {kind}")
        config.write_text(f"{changed}cache: cache\nobjective: {{kind: {kind}{steps}}}\n")
        result = run("train", config, "--quiet")
        assert result.exit_code == 0, result.output
        learned[kind] = [float(row["loss"]) for row in read_table(Path(kind))]
    assert all(len(losses) == 3 and min(losses) > 0.0 for losses in learned.values())


def test_toml_is_read_too(run: Run, config: Path, here: Path, repo: Path) -> None:
    (here / "config.toml").write_text(
        f'pipeline = "{repo}"\noutput = "run"\nsteps = 1\ndevice = "cpu"\ninputs = {{height = 16, width = 16}}\n'
        '[data]\nkind = "folder"\npath = "pictures"\n[target]\nkind = "lora"\ncomponent = "transformer"\n'
    )
    assert run("train", "config.toml", "-q").exit_code == 0
    (here / "config.toml").write_text("steps = \n")
    result = run("train", "config.toml", "-q")
    assert result.exit_code == 1 and "config.toml: Invalid value (at line 1, column 9)" in result.stderr


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("cache", ["", "cache: cache\n"])
def test_a_controlnet_begins_in_a_config_and_goes_on(run: Run, config: Path, here: Path, cache: str) -> None:
    """Its pictures are columns with paths in the folder."""
    lines = [{"file_name": f"{n}.png", "text": "a red apple", "edges": f"{(n + 1) % 3}.png"} for n in range(3)]
    (here / "pictures" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = config.read_text().replace("path: pictures", "path: pictures, pictures: {control_image: edges}")
    text = text.replace("kind: lora, component: transformer, rank: 2", "kind: full, component: controlnet, {}") + cache
    config.write_text(text.replace("{}}", "result: component}") + "controlnet: new\n")
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    assert (Path(result.stdout.strip()) / "config.json").is_file()
    losses = [row["loss"] for row in read_table(Path("run"))]
    config.write_text(text.replace("{}}", "result: component}").replace("output: run", "output: more")
                      + "controlnet: run/result/controlnet\n")  # fmt: skip
    assert run("train", config, "--quiet").exit_code == 0
    assert [row["loss"] for row in read_table(Path("more"))] != losses
    config.write_text(text.replace(", {}}", "}") + "controlnet: new\n")
    result = run("train", config, "--quiet", "--resume")
    assert result.exit_code == 1 and "train with result='component'" in result.stderr


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("cache", ["", "cache: cache\n"])
def test_a_network_begins_from_nothing(run: Run, config: Path, repo: Path, cache: str) -> None:
    """Of another width, and from the same numbers each time."""
    full = "target: {kind: full, component: transformer}"
    text = config.read_text().replace("target: {kind: lora, component: transformer, rank: 2}", full) + cache
    config.write_text(text + "untrained: {transformer: {num_layers: 2}}\n")
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    made = TextToImagePipeline.from_pretrained("run/result", device="cpu").transformer
    stored = TextToImagePipeline.from_pretrained(repo, device="cpu").transformer
    assert made.config.num_layers == 2 > stored.config.num_layers
    config.write_text(config.read_text().replace("output: run", "output: again"))
    assert run("train", config, "--quiet").exit_code == 0
    assert [row["loss"] for row in read_table(Path("again"))] == [row["loss"] for row in read_table(Path("run"))]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("cache", ["", "cache: cache\n"])
def test_pictures_of_a_class_are_learned_beside_the_data(run: Run, config: Path, cache: str) -> None:
    text = config.read_text() + cache + "prior: {call: {prompt: a red apple, steps: 1}, count: 2, weight: 0.5}\n"
    config.write_text(text.replace("batch: 2", "batch: 5"))
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    made = sorted(Path("run/prior").glob("*.png"))
    assert [path.name for path in made] == ["00000.png", "00001.png"]
    with Image.open(made[0]) as picture:
        assert picture.size == (16, 16)  # as the inputs of the run say
    before = made[0].stat().st_mtime_ns
    config.write_text(config.read_text().replace("steps: 3", "steps: 4"))
    result = run("train", config, "--quiet", "--resume")
    assert result.exit_code == 0, result.output
    assert made[0].stat().st_mtime_ns == before
    config.write_text(config.read_text().replace("count: 2", "count: 3"))
    again = run("train", config, "--quiet", "--resume")
    assert again.exit_code == 1 and "is of another run: data was" in again.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("controlnet: gone", "gone"),
        ("untrained: {transformr: {}}", "untrained: there is no network 'transformr'; did you mean 'transformer'?"),
        ("untrained: {tokenizer: {}}", "untrained: 'tokenizer' is a WordTokenizer, which its configuration does not"),
        ("untrained: {transformer: {num_layer: 3}}", "'num_layer' is not a field; did you mean 'num_layers'?"),
        ("prior: {count: 2}", "'prior.call' is missing"),
        ("prior: {call: {prompt: a, seed: 3}}", "leave 'seed' out of the call"),
        ("prior: {call: {promt: a}, count: 1}", "did you mean 'prompt'?"),
    ],
)
def test_what_is_wrong_beside_the_pipeline_is_named(run: Run, config: Path, more: str, message: str) -> None:
    config.write_text(f"{config.read_text()}{more}\n")
    result = run("train", config, "--quiet")
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.usefixtures("quick")
def test_a_pipeline_without_pictures_learns_from_those_of_a_folder(run: Run, config: Path, ddpm: Path) -> None:
    """One that draws from noise alone: a file says what the picture of a row is for."""
    text = config.read_text().replace("{kind: lora, component: transformer, rank: 2}", "{kind: full, component: unet}")
    text = text.replace("height: 16, width: 16", "training_size: 8")
    config.write_text("\n".join(f"pipeline: {ddpm}" if "pipeline" in line else line for line in text.splitlines()))
    result = run("train", config, "--quiet")
    assert result.exit_code == 1 and "(in a file: data: {picture: training_image})" in result.stderr
    text = config.read_text().replace("path: pictures", "path: pictures, picture: training_image, columns: null")
    config.write_text(text)
    result = run("train", config, "--quiet")
    assert result.exit_code == 1 and "train with result='component'" in result.stderr
    config.write_text(text.replace("component: unet", "component: unet, result: component") + "\ncache: cache\n")
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    assert UNet2DModel.from_pretrained(result.stdout.strip()).config.sample_size == 8
    assert len(read_table(Path("run"))) == 3


LORA = "{kind: lora, component: transformer, rank: 2}"


@pytest.mark.parametrize(
    ("target", "more", "file"),
    [
        ("{kind: lora, component: transformer, dora: true, formats: [peft]}", "", "peft/adapter_model.safetensors"),
        ("{kind: full, component: [text_encoder, transformer]}", "optimizer: {kind: muon}", "."),
        ("{kind: full, component: transformer, result: component, only: norm}", "clip: null", "transformer"),
        ("{kind: word, token: blurple, init: blue}", "", "learned_embeds.safetensors"),
        (LORA, "objective: {weighting: {kind: min_snr, gamma: 5}}", "kohya.safetensors"),
        (LORA, "objective: {weighting: {kind: p2}, times: {kind: mode}}", "kohya.safetensors"),
        (LORA, "objective: {weighting: {kind: cosmap}, times: {kind: shifted, shift: 3}}", "kohya.safetensors"),
        (LORA, "objective: {weighting: {kind: sigma_squared}, loss_kind: huber}", "kohya.safetensors"),
        (LORA, "objective: {kind: trajectory_imitation, steps: 1, teacher_steps: 2}", "kohya.safetensors"),
        (LORA, "optimizer: {kind: sgd}\nmemory: {transformer: nf4}\nrecompute: true", "kohya.safetensors"),
        (LORA, "validation: {every: 2, calls: [{prompt: a car}], held_out: 0.4}", "kohya.safetensors"),
    ],
)  # fmt: skip
def test_every_target_and_objective_is_a_value_of_a_config(
    run: Run, config: Path, repo: Path, wide: Path, target: str, more: str, file: str, trainers: list[Trainer]
) -> None:
    for path in Path("pictures").glob("*.txt"):
        path.write_text("a blurple apple" if "blurple" in target else "a red apple")
    text = config.read_text().replace(str(repo), str(wide if "nf4" in more else repo))
    config.write_text(f"{text.replace(LORA, target)}{more}\n")
    result = run("train", config, "--quiet")
    assert result.exit_code == 0, result.output
    assert (Path("run/result") / file).exists() and Path("run/result") / file in map(Path, result.stdout.split())
    table = read_table(Path("run"))
    assert len(table) == 3 and all(float(row["loss"]) > 0.0 and float(row["gradient"]) > 0.0 for row in table)
    assert bool(precision_of(trainers[0].pipe.transformer)) == ("nf4" in more)
    if "held_out" in more:
        assert float(table[1]["held_out"]) > 0.0 and list(Path("run/validation").iterdir())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.usefixtures("quick")
def test_in_half_precision_what_is_frozen_is_computed_as_a_cache_has_it(run: Run, config: Path) -> None:
    """In the type of its weights: the losses are the same with the cache and without."""
    text, learned = config.read_text() + "precision: bf16\n", []
    for name, cache in (("one", ""), ("two", "cache: cache\n")):
        config.write_text(text.replace("output: run", f"output: {name}") + cache)
        result = run("train", config, "--quiet")
        assert result.exit_code == 0, result.output
        learned.append([row["loss"] for row in read_table(Path(name))])
    assert learned[0] == learned[1]
