"""The code of the second document, run as one program against a hub, after the edits that `docs/seeds.md` lists."""

import json
import os
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from huggingface_hub import constants

from calotype import DDPMScheduler, DiffusionPipeline
from calotype.community import one_step_unet
from calotype.community.clip_guided_stable_diffusion import CLIPGuidedStableDiffusion
from calotype.errors import UntrustedCode
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import locate
from hub import Hub
from seeds.edits import listed, made, printed
from tiny_sd import reference_pipeline, tiny_clip

HERE = Path(__file__).parent
PROGRAM = HERE / "contribute_a_community_pipeline.py"
UNET = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "center_input_sample": False, "layers_per_block": 2,
    "time_embedding_type": "positional", "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 32, 32, 32], "mid_block_scale_factor": 1, "act_fn": "silu",
    "attention_head_dim": None, "norm_num_groups": 32, "norm_eps": 1e-6,
}  # fmt: skip
"""The published configuration of `google/ddpm-cifar10-32`, but for its width: 128 to 256 channels there."""
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "variance_type": "fixed_large", "clip_sample": True,
}  # fmt: skip


PRINTED = printed("contribute-a-community-pipeline.md", blocks=6)


def test_the_program_is_what_the_document_prints_but_for_the_listed_edits() -> None:
    edits = made(PRINTED, PROGRAM.name)
    assert [set(lines) for lines in edits] == [set(lines) for lines in listed("The second document")]
    assert edits[1].total() == 8, "six imports, one constructor and one class under its new name, and no line besides"


def test_what_ships_is_the_printed_class() -> None:
    def stripped(lines: list[str]) -> list[str]:
        return [line for line in lines if '"""' not in line and "import" not in line]

    ours = Path(one_step_unet.__file__).read_text(encoding="utf-8").splitlines()
    end = PRINTED.index("        return scheduler_output") + 1
    assert stripped([line for line in ours if line.strip()]) == stripped(PRINTED[:end])


@pytest.fixture
def published(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The four repositories of the document. The first has the layout of its time: no folders."""
    torch.manual_seed(0)
    diffusers.UNet2DModel(**UNET).save_pretrained(tmp_path / "unet")
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", "scheduler": ["diffusers", "DDPMScheduler"],
             "unet": ["diffusers", "UNet2DModel"]}  # fmt: skip
    files = {
        "model_index.json": json.dumps(index),
        "config.json": json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", **UNET}),
        "scheduler_config.json": json.dumps(
            {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", **SCHEDULER}
        ),
        "diffusion_pytorch_model.safetensors": (tmp_path / "unet/diffusion_pytorch_model.safetensors").read_bytes(),
    }
    hub.add("google/ddpm-cifar10-32", {**files, "diffusion_pytorch_model.bin": b"a pickle", "README.md": "a card"})
    hub.add("stevhliu/one_step_unet", {"pipeline.py": Path(one_step_unet.__file__).read_bytes()})
    publish_stable_diffusion(hub, tmp_path)
    publish_clip(hub, tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)  # transformers read the environment when it was imported
    monkeypatch.setattr(constants, "HF_HUB_CACHE", os.environ["HF_HUB_CACHE"])
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + template[template.index("/{repo_id}") :]
    )
    return hub


def publish_stable_diffusion(hub: Hub, folder: Path) -> None:
    """`CompVis/stable-diffusion-v1-4` in small widths: the index lists what the pipeline does not take, too."""
    reference_pipeline(diffusers.StableDiffusionPipeline).save_pretrained(folder / "sd")
    files = {str(p.relative_to(folder / "sd")): p.read_bytes() for p in (folder / "sd").rglob("*") if p.is_file()}
    index = json.loads(files["model_index.json"])
    index |= {"_diffusers_version": "0.2.2", "feature_extractor": ["transformers", "CLIPImageProcessor"],
              "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}  # fmt: skip
    unused = {"safety_checker/config.json": "{}", "safety_checker/model.safetensors": b"not fetched",
              "feature_extractor/preprocessor_config.json": "{}"}  # fmt: skip
    hub.add("CompVis/stable-diffusion-v1-4", {**files, **unused, "model_index.json": json.dumps(index)})


def publish_clip(hub: Hub, folder: Path) -> None:
    """`laion/CLIP-ViT-B-32-laion2B-s34B-b79K` in small widths, with the published fields of its preparation."""
    clip, _ = tiny_clip()
    clip.save_pretrained(folder / "clip")
    preparation = {
        "crop_size": 16, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 16,
    }  # fmt: skip
    files = {path.name: path.read_bytes() for path in (folder / "clip").iterdir()}
    hub.add("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", {**files, "preprocessor_config.json": json.dumps(preparation)})


def run() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "contribute_a_community_pipeline"}
    exec(compile(PROGRAM.read_text(encoding="utf-8"), str(PROGRAM), "exec"), names)
    return names


def test_it_runs(published: Hub) -> None:
    """The last line runs code of a hub, so it is refused until that was approved."""
    with pytest.raises(UntrustedCode, match="calotype trust stevhliu/one_step_unet@"):
        run()
    Consent().approve(locate("stevhliu/one_step_unet"))
    names = run()
    assert names["output"].shape == (1, 3, 32, 32) and names["output"].isfinite().all()
    assert type(names["pipe"]) is one_step_unet.UnetSchedulerOneForwardPipeline
    assert type(names["pipe"]) is not names["UnetSchedulerOneForwardPipeline"]
    assert not any(path.endswith((".bin", ".md")) for path in published.downloads())


def test_what_it_returns_is_what_the_document_s_own_library_returns(published: Hub, tmp_path: Path) -> None:
    """To 1e-4: at timestep 1 the reference computes the step's coefficients in float32, which is 5e-5 off the same in
    float64; ours is 2e-5 off."""
    Consent().approve(locate("stevhliu/one_step_unet"))
    names = run()
    shared = DiffusionPipeline.from_pretrained("google/ddpm-cifar10-32", custom_pipeline="stevhliu/one_step_unet")
    assert type(shared).__name__ == "UnetSchedulerOneForwardPipeline" and type(shared) is not type(names["pipe"])
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet")
    scheduler = diffusers.DDPMScheduler(**SCHEDULER)
    for pipe in (names["pipe"], shared):
        torch.manual_seed(3)
        found = pipe()
        torch.manual_seed(3)
        image = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            wanted = scheduler.step(unet(image, 1).sample, 1, image).prev_sample
        assert torch.allclose(found, wanted, atol=1e-4)


def test_the_guided_pipeline_has_what_it_was_given_and_what_the_repository_has(published: Hub) -> None:
    Consent().approve(locate("stevhliu/one_step_unet"))
    names = run()
    pipe = names["pipeline"]
    assert type(pipe) is CLIPGuidedStableDiffusion
    assert pipe.clip_model is names["clip_model"] and pipe.feature_extractor is names["feature_extractor"]
    assert pipe.scheduler is names["scheduler"] and type(pipe.scheduler) is DDPMScheduler
    for network in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.clip_model):
        assert {p.dtype for p in network.parameters()} == {torch.float16}
    fetched = [path.partition(": ")[2] for path in published.downloads() if path.startswith("CompVis/")]
    assert not any(path.startswith(("safety_checker", "feature_extractor", "scheduler")) for path in fetched)


def test_the_guided_pipeline_draws(published: Hub) -> None:
    """In half precision, as printed, with the arguments of the reference's own example."""
    Consent().approve(locate("stevhliu/one_step_unet"))
    pipe = run()["pipeline"]
    call = {"prompt": "a red cat", "num_inference_steps": 3, "guidance_scale": 7.5, "height": 16, "width": 16}
    plain = pipe(**call, clip_guidance_scale=0, generator=torch.Generator().manual_seed(0)).images[0]
    for more in ({"use_cutouts": False}, {"num_cutouts": 2}, {"clip_prompt": "a cat", "num_cutouts": 1}):
        guided = pipe(**call, **more, clip_guidance_scale=100, generator=torch.Generator().manual_seed(0)).images[0]
        assert guided.size == (16, 16) and guided != plain
