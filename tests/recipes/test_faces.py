"""The recipe of the unconditional model in small: two pictures, few steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import DDPMPipeline
from recipes import faces


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[: faces.SIDE, : faces.SIDE] - (faces.SIDE - 1) / 2
    picture = np.zeros((faces.SIDE, faces.SIDE, 4), np.uint8)
    picture[np.hypot(x, y) < radius] = (250, 200, 30, 255)
    picture[10:14, 8:12] = (0, 0, 0, 255)  # one eye: not the same when mirrored
    return picture


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(faces, "faces", lambda: iter([("1f600-noto", disc(13)), ("1f600-flat", disc(11))]))
    assert faces.make_pictures(tmp_path / "pictures") == 4
    return tmp_path / "pictures"


def test_pictures_are_on_white_and_mirrored(pictures: Path) -> None:
    plain, mirrored = (np.asarray(Image.open(pictures / f"1f600-noto{end}.png")) for end in ("", "-mirrored"))
    assert (plain[0, 0] == 255).all() and (plain[16, 16] == (250, 200, 30)).all()
    assert (mirrored == plain[:, ::-1]).all() and (mirrored != plain).any()
    assert faces.make_pictures(pictures) == 4  # there already


def test_it_trains_goes_on_and_ships(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit, match="no checkpoint yet"):
        faces.trained(run)
    faces.train(pictures, run, steps=2, shown=0)
    result = faces.train(pictures, run, steps=3, shown=1)
    assert result.steps == 3
    trained = faces.trained(run)
    faces.export(run, tmp_path / "faces-32")
    again = DDPMPipeline.from_pretrained(tmp_path / "faces-32", device="cpu")
    for name, value in trained.unet.state_dict().items():
        torch.testing.assert_close(again.unet.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert again.scheduler.config.prediction_type == "v_prediction"
    assert "Noto Emoji" in (tmp_path / "faces-32" / "NOTICE").read_text()
    assert again(num_inference_steps=2, seed=0).image.size == (faces.SIDE, faces.SIDE)


def test_distances_are_of_the_nearest(pictures: Path) -> None:
    names, real = faces.read_pictures(pictures)
    assert len(set(names)) == 4 and real.shape == (4, faces.SIDE, faces.SIDE, 3)
    apart = faces.distances(real, real)
    assert (np.diag(apart) == 0).all() and (apart == apart.T).all()
    found = faces.between_real(names, real)
    assert found.shape == (2,) and (found > 0).all()  # its own mirror picture is not another
    noto, flat = names.index("1f600-noto"), names.index("1f600-flat")
    assert found.max() <= apart[noto, flat]


def test_the_sheets_are_written(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = DDPMPipeline(unet=faces.network().eval(), scheduler=faces.scheduler(), device="cpu")
    faces.sheets(pipe, pictures, tmp_path / "sheets", count=16, steps=1)
    for name, size in (("faces-32", (16 * 64, 64)), ("faces-32-nearest", (16 * 64, 128))):
        with Image.open(tmp_path / "sheets" / f"{name}.webp") as sheet:
            assert sheet.size == size
    assert "drawn to nearest real" in capsys.readouterr().out
