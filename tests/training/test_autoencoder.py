"""Autoencoders: the loss against its formula, runs that go on, and what is refused."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calotype import TextToImagePipeline
from calotype.errors import ComponentError, ConfigError, InputError
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.training import (
    AutoencoderTrainer,
    Drawn,
    FullWeights,
    Muon,
    PictureFolder,
    PictureTars,
    Reconstruction,
    Row,
    TrainingSettings,
)
from calotype.training.log import read_table
from training.runs import same, saved
from training.small import color


def pipeline(**fields: Any) -> TextToImagePipeline:
    """A pipeline of nothing but a small autoencoder, whose weights are always the same."""
    torch.manual_seed(0)
    return TextToImagePipeline(vae=MiniAutoencoderKL(block_out_channels=(4, 4, 4), **fields), device="cpu")


def pictures(size: int = 16) -> list[dict[str, Any]]:
    return [{"image": color(60 * n, 255 - 50 * n, 20, size)} for n in range(4)]


def squares(draw: np.random.Generator) -> dict[str, Any]:
    return {"image": color(*draw.integers(0, 256, 3).tolist(), 16)}


def test_the_loss_is_that_of_its_formula() -> None:
    vae = pipeline().vae
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    found = Reconstruction(edges=0.5, divergence=0.1).losses(vae, pixels, torch.Generator().manual_seed(3))
    for index in range(2):
        mean, log_variance = vae.encode_moments(pixels[index : index + 1])
        noise = torch.randn((2, 16, 2, 2), generator=torch.Generator().manual_seed(3))[index : index + 1]
        error: Tensor = (vae.decoder(mean + noise * (log_variance / 2).exp()) - pixels[index])[0]
        rows, columns = error[:, 1:] - error[:, :-1], error[:, :, 1:] - error[:, :, :-1]
        gaussian = torch.distributions.Normal(mean, (log_variance / 2).exp())
        divergence = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).mean()
        wanted = error.abs().mean() + 0.5 * (rows.abs().mean() + columns.abs().mean()) + 0.1 * divergence
        torch.testing.assert_close(found[index], wanted, rtol=1e-5, atol=1e-6)


def test_a_run_learns_and_leaves_an_autoencoder(tmp_path: Path) -> None:
    pipe = pipeline()
    optimizer = Muon(rate=0.02, matrices=r"conv\d\.weight", kernels=True, other_rate=5e-3)
    result = AutoencoderTrainer(
        pipe, pictures(), tmp_path, steps=30, batch=4, optimizer=optimizer, held_out=pictures()[:2],
        validation={"every": 10},
    ).train(progress=False)  # fmt: skip
    rows = read_table(tmp_path)
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < 0.7 * losses[0]
    assert [row["step"] for row in rows if row["held_out"]] == ["10", "20", "30"]
    assert result.files == (tmp_path / "result" / "vae",)
    again = MiniAutoencoderKL.from_pretrained(result.files[0]).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in pipe.vae.state_dict().items())


def test_a_run_that_was_stopped_ends_with_the_same_numbers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch": 2, "average": 0.9, "checkpoint_every": 1}
    data = Drawn(squares, "squares")
    AutoencoderTrainer(pipeline(), data, tmp_path / "whole", steps=4, **settings).train(progress=False)
    AutoencoderTrainer(pipeline(), data, tmp_path / "parts", steps=3, **settings).train(progress=False)
    AutoencoderTrainer(pipeline(), data, tmp_path / "parts", steps=4, **settings).train(resume=True, progress=False)
    assert same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))


def test_the_layout_of_the_weights_changes_the_order_of_sums_alone(tmp_path: Path) -> None:
    found = []
    for name, layout in (("plain", torch.contiguous_format), ("last", torch.channels_last)):
        pipe = pipeline()
        pipe.vae.to(memory_format=layout)
        AutoencoderTrainer(pipe, pictures(), tmp_path / name, steps=2, batch=4).train(progress=False)
        found.append(pipe.vae.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-3, atol=1e-4)


def test_pictures_of_several_sizes_need_one(tmp_path: Path) -> None:
    data = [*pictures(16)[:1], *pictures(24)[:1]]
    with pytest.raises(InputError, match="the sizes 16x16, 24x24 make no batch"):
        AutoencoderTrainer(pipeline(), data, tmp_path / "a", steps=1, batch=2).train(progress=False)
    objective = {"kind": "reconstruction", "size": 16}
    run = AutoencoderTrainer(pipeline(), data, tmp_path / "b", steps=1, batch=2, objective=objective)
    assert run.train(progress=False).steps == 1


def test_weights_of_rows_count(tmp_path: Path) -> None:
    losses = []
    for weight in (1.0, 0.5):
        data = [Row("one", pictures()[0], weight=weight)]
        AutoencoderTrainer(pipeline(), data, tmp_path / str(weight), steps=1).train(progress=False)
        losses.append(float(read_table(tmp_path / str(weight))[0]["loss"]))
    assert losses[1] == pytest.approx(0.5 * losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout": {"prompt": 0.1}}, "dropout: an autoencoder learns from pictures alone"),
        ({"cache": "cache"}, "cache: an autoencoder learns from pictures alone"),
        ({"objective": {"picture": "prompt"}}, "takes no picture 'prompt'; it takes image, mask"),
        ({"target": FullWeights(component=("vae", "transformer"))}, "one autoencoder is trained at a time"),
        ({"settings": TrainingSettings(target=FullWeights(component="vae"), steps=1)}, "takes AutoencoderSettings"),
    ],
)
def test_settings_of_no_use_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoencoderTrainer(pipeline(), pictures(), tmp_path, **({} if "settings" in fields else {"steps": 1}), **fields)


def test_what_is_no_autoencoder_is_refused(tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", dtype="float32", device="cpu")
    with pytest.raises(ComponentError, match="'transformer', a MiniTransformer2DModel, has no encode_moments"):
        AutoencoderTrainer(pipe, pictures(), tmp_path, steps=1, target=FullWeights(component="transformer"))


def test_a_row_without_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 0: it makes no 'image' to learn"):
        AutoencoderTrainer(pipeline(), [{"prompt": "a"}], tmp_path, steps=1).train(progress=False)


def test_pictures_in_a_tar_are_learned_from_as_those_beside_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, row in enumerate(pictures()):
            row["image"].save(tmp_path / f"{number}.png")
            tar.add(tmp_path / f"{number}.png", f"{number}.png")
    found = []
    for name, source in (
        ("tar", PictureTars(path=str(tmp_path / "a.tar"))),
        ("folder", PictureFolder(path=str(tmp_path))),
    ):
        AutoencoderTrainer(pipeline(), source.rows(), tmp_path / f"run-{name}", steps=2).train(progress=False)
        found.append(saved(tmp_path / f"run-{name}"))
    assert same(*found)
