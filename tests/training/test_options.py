"""Where and how a run computes: devices, budgets, compiled networks, processes, logs of packages."""

import errno
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tiny_sd
from calotype import StableDiffusionPipeline, TextToImagePipeline
from calotype.errors import ComponentError, ConfigError, TrainingError
from calotype.training import AdamW, FullWeights, LowRankChange, Trainer
from calotype.training.assembled import device_of_process
from calotype.training.compiled import compiled
from calotype.training.log import WandB, read_table
from calotype.training.trained import Trained
from training.small import Small, rows, small

FULL: dict[str, Any] = {"target": FullWeights(component="net", result="component"), "optimizer": AdamW(rate=1e-2)}
LORA: dict[str, Any] = {"target": LowRankChange(component="net", rank=2, layers="(into|to_q|blocks.*)")}


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in read_table(folder)]


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")


def test_each_process_has_a_gpu_of_its_own(two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of_process("cpu") == "cpu"
    assert device_of_process("cuda") == "cuda:1"
    with pytest.raises(ConfigError, match="device: 'cuda:0' is one, and 2 processes train together; give 'cuda'"):
        device_of_process("cuda:0")
    for there, wanted in ((True, "cuda:1"), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of_process(None) == wanted


def test_one_process_takes_the_device_that_is_named() -> None:
    assert device_of_process("cuda:1") == "cuda:1" and device_of_process(None) is None


def test_a_run_is_on_the_pipelines_device_and_not_on_the_first_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.training.settings import parse_settings
    from calotype.training.surroundings import accelerator_for

    class Elsewhere:
        device = torch.device("cpu", 0)

    settings: Any = parse_settings({**FULL, "steps": 1})
    assert accelerator_for(Elsewhere(), settings).device == torch.device("cpu", 0)  # type: ignore[arg-type]


# -- budgets -----------------------------------------------------------------------------------------------------------

PICTURES = [{"prompt": f"a {name} apple", "image": Image.new("RGB", (64, 64), name)} for name in ("red", "blue")]


@pytest.mark.parametrize("target", [
    LowRankChange(component="transformer", rank=2), FullWeights(component="transformer", result="component"),
], ids=["lora", "full"])  # fmt: skip
def test_what_is_not_trained_comes_and_leaves_within_a_budget(target: Any, tmp_path: Path) -> None:
    """The same losses, where all components together do not fit."""
    found = []
    for budget in (None, "21MiB"):
        pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memory=budget)
        Trainer(pipe, PICTURES, tmp_path / str(budget), target=target, steps=2, batch=2).train(progress=False)
        found.append(losses(tmp_path / str(budget)))
    assert sum(pipe._residency.sizes().values()) > 21 * 2**20
    assert found[0] == found[1]


def test_a_denoiser_that_does_not_fit_says_what_to_give(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memory="10MiB")
    target = LowRankChange(component="transformer", rank=2)
    message = r"gradients need the whole of transformer, 11\.7 MiB, on cpu, but the budget is 10\.0 MiB; give memory=1"
    with pytest.raises(ComponentError, match=message):
        Trainer(pipe, PICTURES, tmp_path, target=target, steps=1).train(progress=False)


# -- compiled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])
def test_a_compiled_network_learns_the_same(settings: dict[str, Any], recompute: bool, tmp_path: Path) -> None:
    found = []
    for compile in (False, "eager"):
        pipe = small()
        pipe.net.drop.p = 0.0
        folder = tmp_path / str(compile)
        run = Trainer(pipe, rows(), folder, steps=3, batch=2, compile=compile, recompute=recompute, **settings)
        run.train(progress=False)
        found.append(losses(folder))
        assert "forward" not in vars(pipe.net)
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=1e-6)


def test_blocks_that_are_alike_keep_what_is_beside_each(tmp_path: Path) -> None:
    """What is compiled for one of two equal blocks would not see the change of the other."""
    pipe = small()
    pipe.net.eval()
    trained: Trained = LowRankChange(component="net", rank=2, layers=r"blocks\.\d").put(pipe, seed=0)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(2, 3, 8, 8), torch.rand(2), torch.randn(2, 2, 4)
    with torch.no_grad():
        wanted = pipe.net(*inputs)
        with compiled("net", pipe.net, "eager"):
            torch.testing.assert_close(pipe.net(*inputs), wanted)
    trained.remove()


def test_what_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    class Broken(Small):
        def forward(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().forward(x, sigma, text)

    pipe = small(net=Broken())
    with pytest.raises(ComponentError, match=r"compile: 'net' cannot be compiled: .*; train with compile=False"):
        Trainer(pipe, rows(), tmp_path, steps=1, compile="eager", **LORA).train(progress=False)
    assert isinstance(pipe.net, nn.Module) and "forward" not in vars(pipe.net)


def test_a_backend_that_there_is_not_is_refused_before_the_first_step(tmp_path: Path) -> None:
    run = Trainer(small(), rows(), tmp_path, steps=1, compile="inducter", **LORA)
    with pytest.raises(ConfigError, match="compile: there is no backend 'inducter'; did you mean 'inductor'"):
        run.train(progress=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": {"kind": "distribution_matching", "critic_update": 2}}, "did you mean 'critic_updates'"),
        ({"objective": {"kind": "denoisin"}}, "'objective': there is no kind 'denoisin'; did you mean 'denoising'?"),
        ({"target": {"kind": "lora", "component": "net", "ranc": 2}}, "'target.lora.ranc' is not a field; .* 'rank'"),
        ({"validation": {"evry": 2}}, "'validation.evry' is not a field; did you mean 'every'"),
    ],
)
def test_wrong_parts_of_settings_are_named_with_the_nearest(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(small(), rows(), tmp_path, **{"steps": 1, **LORA, **fields})


def test_blocks_that_hand_on_lists_are_computed_again_as_they_were(tmp_path: Path) -> None:
    """A U-Net's blocks take from the list of what earlier ones left."""
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    data = [{"prompt": "cat", "image": tiny_sd.picture(seed=n)} for n in range(2)]
    found = []
    for recompute in (False, True):
        pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / f"pipe-{recompute}")
        folder = tmp_path / str(recompute)
        Trainer(
            pipe, data, folder, target=LowRankChange(component="unet", rank=2), steps=3, batch=2, recompute=recompute,
            inputs={"height": 16, "width": 16}, optimizer=AdamW(rate=1e-2),
        ).train(progress=False)  # fmt: skip
        found.append(losses(folder))
    assert found[0] == found[1]


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield


def test_a_log_of_weights_and_biases(tmp_path: Path, _offline: None) -> None:
    """With the package, a run that goes on is the same run there; without, it is said what is missing."""
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(ConfigError, match="log='wandb' needs a package: pip install wandb"):
            Trainer(small(), rows(), tmp_path, steps=1, log=("wandb",), **LORA).train(progress=False)
        return
    names = []
    for steps in (2, 3):
        Trainer(small(), rows(), tmp_path, steps=steps, log=("csv", "wandb"), **LORA).train(resume=True, progress=False)
        names.append((tmp_path / "wandb-run").read_text())
    assert names[0] == names[1] and len(names[0]) == 8
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{names[0]}/run-{names[0]}.wandb"))
    assert len(files) == 2 and all(file.stat().st_size > 0 for file in files)


def test_what_is_logged_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a package that only takes notes."""
    import sys
    import types

    noted: list[Any] = []

    class Run:
        def define_metric(self, *args: Any, **kwargs: Any) -> None:
            noted.append(("metric", args, kwargs))

        def log(self, values: Any) -> None:
            noted.append(values)

        def finish(self) -> None:
            noted.append("finished")

    package: Any = types.ModuleType("wandb")
    package.Error = RuntimeError
    package.init = lambda **settings: noted.append(settings) or Run()
    monkeypatch.setitem(sys.modules, "wandb", package)
    log = WandB(tmp_path, 0)
    log.write({"step": 1, "loss": 0.5, "critic": None})
    log.close()
    assert noted[0]["dir"] == str(tmp_path) and noted[0]["resume"] == "allow"
    assert noted[1:] == [("metric", ("*",), {"step_metric": "step"}), {"step": 1, "loss": 0.5}, "finished"]
    package.init = lambda **settings: (_ for _ in ()).throw(RuntimeError("no key"))
    with pytest.raises(ConfigError, match="log='wandb' cannot start: no key; WANDB_MODE=offline"):
        WandB(tmp_path, 0)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_for_the_result_names_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Any, folder: Path) -> list[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("calotype.training.targets._TrainedLayers.save", save)
        with pytest.raises(TrainingError, match=r"could not be saved to .*result: .*No space left.*00000002"):
            Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(progress=False)
    again = Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False)
    assert again.loss is None and all(path.exists() for path in again.files)
