"""Community files that were written for diffusers, with their own library's components."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from calotype import DiffusionPipeline, ModelConfig
from calotype.errors import InputError, RepositoryError, UntrustedCode
from calotype.pipelines.loading.custom import is_guest
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import locate
from hub import Hub

GUEST = """
import torch
from diffusers import DiffusionPipeline

class UnetSchedulerOneForwardPipeline(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self):
        image = torch.ones(1, self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size)
        model_output = self.unet(image, 1).sample
        return self.scheduler.step(model_output, 1, image, generator=torch.Generator().manual_seed(0)).prev_sample
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights") / "ddpm"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "one_step.py").write_text(GUEST)
    return tmp_path / "one_step.py"


def copied(weights: Path, to: Path, **index: Any) -> Path:
    for path in weights.rglob("*"):
        if path.is_file():
            (to / path.relative_to(weights)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(weights)).write_bytes(path.read_bytes())
    listed = json.loads((to / "model_index.json").read_text())
    (to / "model_index.json").write_text(json.dumps({**listed, **index}))
    return to


def test_a_guest_is_a_pipeline_of_diffusers_with_its_components(weights: Path, file: Path) -> None:
    pipe: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=file)
    assert isinstance(pipe, diffusers.DiffusionPipeline) and is_guest(type(pipe))
    assert type(pipe.unet) is diffusers.UNet2DModel and type(pipe.scheduler) is diffusers.DDPMScheduler
    reference = diffusers.UNet2DModel.from_pretrained(weights / "unet")
    assert torch.equal(pipe.unet.conv_in.weight, reference.conv_in.weight)
    ours: Any = DiffusionPipeline.from_pretrained(weights)
    x = torch.ones(1, 3, 8, 8)
    assert torch.allclose(pipe.unet(x, 1).sample, ours.unet(x, 1).sample, atol=1e-5)
    assert pipe().isfinite().all()


def test_options_of_a_guest(weights: Path, file: Path) -> None:
    half: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=file, torch_dtype="float16", device="cpu")
    assert half.unet.dtype == torch.float16
    scheduler = diffusers.DDIMScheduler()
    mine: Any = DiffusionPipeline.from_pretrained(
        weights, custom_pipeline=file, scheduler=scheduler, dtype={"unet": "bfloat16"}
    )
    assert mine.scheduler is scheduler and mine.unet.dtype == torch.bfloat16
    for option in ({"memory": "1GiB"}, {"memo": 0}, {"only": ["unet"]}, {"check": "finite"}):
        with pytest.raises(
            InputError, match=f"is a pipeline of diffusers, for which {next(iter(option))}= does nothing"
        ):
            DiffusionPipeline.from_pretrained(weights, custom_pipeline=file, **option)
    with pytest.raises(
        InputError, match=r"variant must be one word for .*, a pipeline of diffusers, got {'unet': 'fp16'}"
    ):
        DiffusionPipeline.from_pretrained(weights, custom_pipeline=file, variant={"unet": "fp16"})


def test_a_guest_takes_no_single_files(weights: Path, file: Path) -> None:
    files = ModelConfig(path=str(weights / "unet" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(InputError, match="is a pipeline of diffusers, which loads a folder or an id, not files"):
        DiffusionPipeline.from_pretrained(files, custom_pipeline=file)


def test_a_guest_on_a_hub_needs_consent_and_fetches_no_pickle(
    weights: Path,
    hub: Hub,
    tmp_path: Path,
) -> None:
    folder = copied(weights, tmp_path / "w")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    hub.add("someone/weights", folder)
    commit = hub.add("someone/one_step", {"pipeline.py": GUEST})
    with pytest.raises(UntrustedCode):
        DiffusionPipeline.from_pretrained("someone/weights", custom_pipeline="someone/one_step")
    Consent().approve(locate("someone/one_step", commit))
    pipe: Any = DiffusionPipeline.from_pretrained("someone/weights", custom_pipeline="someone/one_step")
    assert pipe().isfinite().all()
    assert not any(path.endswith((".bin", ".md")) for path in hub.downloads())


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        (["antigravity", "Fly"], "components come from diffusers and transformers only, and nothing else is imported"),
        (["../evil", "Fly"], "components come from diffusers and transformers only"),
        (["calotype", "UNet2DModel"], "components come from diffusers and transformers only"),
        (["stable_diffusion", "Nothing"], "diffusers has no"),
        (["diffusers", "UNet2DModl"], "did you mean 'UNet2DModel'"),
    ],
)
def test_what_an_index_names_is_not_imported(
    weights: Path, file: Path, tmp_path: Path, unet: list[str], message: str
) -> None:
    folder = copied(weights, tmp_path / "w", unet=unet)
    (folder / "unet" / "antigravity.py").write_text("raise SystemExit")
    with pytest.raises(RepositoryError, match=message):
        DiffusionPipeline.from_pretrained(folder, custom_pipeline=file)
    assert "antigravity" not in sys.modules


def test_components_with_code_of_their_own_are_refused(weights: Path, file: Path, tmp_path: Path) -> None:
    folder = copied(weights, tmp_path / "w")
    (folder / "unet" / "diffusers.py").write_text("raise SystemExit")
    with pytest.raises(RepositoryError, match=r"'unet' brings code of its own, unet/diffusers.py, which is not run"):
        DiffusionPipeline.from_pretrained(folder, custom_pipeline=file)


def test_what_diffusers_cannot_load(weights: Path, file: Path, tmp_path: Path) -> None:
    folder = copied(weights, tmp_path / "w")
    weight = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weight.rename(weight.with_suffix(".bin"))
    with pytest.raises(RepositoryError, match="diffusers cannot load it as UnetSchedulerOneForwardPipeline"):
        DiffusionPipeline.from_pretrained(folder, custom_pipeline=file)


def test_without_diffusers(weights: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(GUEST + "# other bytes, so that it runs again\n")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(RepositoryError, match=r"one_step.py needs the package 'diffusers', which is not installed"):
        DiffusionPipeline.from_pretrained(weights, custom_pipeline=file)
    monkeypatch.undo()
    assert importlib.import_module("diffusers") is diffusers


@pytest.mark.parametrize("named", ["UnetSchedulerOneForwardPipeline", ["pipeline", "Theirs"]])
def test_weights_that_carry_code_are_loaded_without_running_it(
    weights: Path, file: Path, tmp_path: Path, named: Any
) -> None:
    """Releases of diffusers run `pipeline.py` there, or `None.py`, though they are asked for another class."""
    folder = copied(weights, tmp_path / "w", _class_name=named)
    mark = tmp_path / "ran"
    for name in ("pipeline.py", "None.py", "theirs.py"):
        (folder / name).write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n{GUEST}")
    pipe: Any = DiffusionPipeline.from_pretrained(folder, custom_pipeline=file)
    assert type(pipe).__module__.endswith(".one_step") and pipe().isfinite().all()
    assert pipe.config._name_or_path == str(folder) and not mark.exists()
    pipe.unet.save_pretrained(tmp_path / "unet")
