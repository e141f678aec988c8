"""A ControlNet learns beside a frozen denoiser, by the units that run it."""

from pathlib import Path

import diffusers
import torch

import tiny_sd
from calotype import ControlNetModel, StableDiffusionPipeline
from calotype.pipelines.stable_diffusion import control
from calotype.training import FullWeights, Trainer
from calotype.training.log import read_table
from calotype.training.wires import trained_wires


def test_a_controlnet_is_trained_from_the_denoiser(tmp_path: Path) -> None:
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / "pipe")
    network = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    controlled = pipe.with_units(control(), controlnet=network)
    wires = trained_wires(type(controlled).graph, ["controlnet"])
    assert {"unet", "controlnet"} <= set(wires.components) and "vae" not in wires.components

    data = [
        {"prompt": "cat", "image": tiny_sd.picture(seed=n), "control_image": tiny_sd.picture(seed=n)} for n in range(2)
    ]
    unet = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run = Trainer(
        controlled, data, tmp_path / "run", target=FullWeights(component="controlnet", result="component"), steps=6,
        batch=2, inputs={"height": 16, "width": 16}, cache="cache", optimizer={"kind": "adamw", "rate": 1e-2},
    )  # fmt: skip
    result = run.train(progress=False)
    assert all(torch.equal(value, unet[name]) for name, value in pipe.unet.state_dict().items())
    still = [name for name, value in network.state_dict().items() if torch.equal(value, before[name])]
    assert not still, still
    assert len(read_table(tmp_path / "run")) == 6
    again = ControlNetModel.from_pretrained(result.files[0])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
