"""Pipelines on pixels, which take no picture until a pack gives them one."""

from pathlib import Path

import pytest
import torch

from calotype import DDPMPipeline, DDPMScheduler, UNet2DModel
from calotype.errors import ComponentError, ConfigError
from calotype.training import PICTURES, FullWeights, Trainer
from calotype.training.log import read_table
from training.small import color


def ddpm() -> DDPMPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    return DDPMPipeline(unet=unet.eval(), scheduler=DDPMScheduler(), device="cpu")


def test_an_unconditional_network_learns_from_scratch(tmp_path: Path) -> None:
    pipe = ddpm().with_units(PICTURES)
    data = [{"training_image": color(200, 40 * n, 9, size=10)} for n in range(4)]
    target = FullWeights(component="unet", result="component")
    run = Trainer(
        pipe, data, tmp_path, target=target, steps=40, batch=4, inputs={"training_size": 8},
        optimizer={"kind": "adamw", "rate": 5e-3},
    )  # fmt: skip
    result = run.train(progress=False)
    losses = [float(row["loss"]) for row in read_table(tmp_path)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    again = UNet2DModel.from_pretrained(result.files[0])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), pipe.unet.parameters(), strict=True))


def test_what_only_the_pack_makes_possible_is_refused_early(tmp_path: Path) -> None:
    pipe, data = ddpm().with_units(PICTURES), [{"training_image": color(1, 2, 3)}] * 2
    with pytest.raises(ComponentError, match="has inserted units, which no repository holds; train with result='comp"):
        Trainer(pipe, data, tmp_path, target=FullWeights(component="unet"), steps=1).train(progress=False)
    target = FullWeights(component="unet", result="component")
    data = [{"training_image": color(1, 2, n)} for n in range(2)]
    run = Trainer(pipe, data, tmp_path, target=target, steps=1, cache="cache", workers=2)
    with pytest.raises(ConfigError, match="which other processes cannot make; give workers=1"):
        run.prepare(progress=False)
