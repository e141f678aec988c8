"""A ControlNet learns beside a frozen denoiser, by the units that run it."""

from pathlib import Path

import diffusers
import pytest
import torch

import tiny_sd
from calotype import ControlNetModel, StableDiffusionPipeline, TextToImagePipeline
from calotype.errors import InputError
from calotype.pipelines.stable_diffusion import control
from calotype.pipelines.text_to_image import control as small_control
from calotype.pipelines.text_to_image.controls import new_controlnet
from calotype.training import Denoising, FullWeights, Row, Trainer
from calotype.training.items import Items
from calotype.training.log import read_table
from calotype.training.predictor import Predictor
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


def test_rows_without_the_picture_that_it_follows_are_refused(tmp_path: Path) -> None:
    """It would be skipped, and the loss would depend on nothing that is trained."""
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / "pipe")
    network = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    target = FullWeights(component="controlnet", result="component")
    data = [{"prompt": "cat", "image": tiny_sd.picture(), "height": 16, "width": 16}]
    why = r"row 0: nothing is learned of controlnet from this row: .* is skipped because control_image is None"
    with pytest.raises(InputError, match=why):
        Trainer(pipe.with_units(control(), controlnet=network), data, tmp_path, target=target, steps=1).train()
    small = TextToImagePipeline.from_pretrained("calotype/emoji-64", dtype="float32", device="cpu")
    made = new_controlnet(small.transformer, small.vae.config.downscale)
    controlled = small.with_units(small_control(), controlnet=made)
    with pytest.raises(InputError, match=why):
        Trainer(controlled, [{"prompt": "a cat", "image": tiny_sd.picture()}], tmp_path, target=target, steps=1).train()


def test_a_batch_at_levels_of_their_own_is_steered_at_once(tmp_path: Path) -> None:
    """The same maps as one by one; a window of a part of the loop has no meaning for a batch, and goes one by one."""
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / "pipe")
    network = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    tiny_sd.spread(network)
    controlled = pipe.with_units(control(), controlnet=network.requires_grad_(False))
    wires = trained_wires(type(controlled).graph, ["controlnet"])
    inputs = [
        {"prompt": "cat", "image": tiny_sd.picture(seed=n), "control_image": tiny_sd.picture(seed=n), "height": 16,
         "width": 16} for n in range(3)
    ]  # fmt: skip
    rows = [Row(str(number), one) for number, one in enumerate(inputs)]
    losses = {}
    for end in (1.0, 0.5, 1.0 - 1e-9):
        batch = Items(controlled, wires).batch(rows, [{**one, "control_end": end} for one in inputs])
        predict = Predictor(wires.loop, controlled.components)
        with torch.no_grad():
            losses[end] = Denoising().loss(batch, predict, controlled.scheduler, torch.Generator().manual_seed(2))
        assert predict.together == (end == 1.0)
    torch.testing.assert_close(losses[1.0], losses[1.0 - 1e-9], rtol=1e-5, atol=1e-6)
    assert (losses[0.5] - losses[1.0]).abs().max() > 1e-3
