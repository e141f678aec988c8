"""Pictures as values, and their conversion to arrays and back."""

import base64
import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from calotype.errors import InputError
from calotype.graph.calls import read_call
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.pipelines.pictures import Picture, to_array, to_mask, to_picture, write_data_url


class Pictures(Inputs):
    picture: Each[Picture] | None = None


def read(value):
    return read_call(Pictures, {"picture": value}).values["picture"]


def gradient(mode="RGB"):
    return Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).convert(mode)


def test_every_level_comes_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([levels, levels[::-1], levels.T], axis=-1))
    assert to_picture(to_array(picture)).tobytes() == picture.tobytes()


def test_values_are_rounded_to_the_nearest_level_and_kept_in_range():
    values = torch.tensor([-2.0, -1.0, -0.99, -1 + 1.4 / 127.5, 0.0, 1.0, 3.0]).view(1, 1, 1, 7)
    assert list(to_picture(values).tobytes()) == [0, 0, 1, 1, 128, 255, 255]


def test_one_channel_is_grey():
    assert to_picture(torch.zeros(1, 1, 2, 3)).mode == "L" and to_picture(torch.zeros(1, 3, 2, 3)).size == (3, 2)


def test_half_precision_and_gradients_are_fine():
    values = torch.zeros(1, 3, 2, 2, dtype=torch.float16, requires_grad=True)
    assert to_picture(values).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_over_white(mode):
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))
    if mode == "LA":
        picture = picture.convert("LA")
    if mode == "P":
        picture = Image.new("P", (2, 1))
        picture.putpalette([255, 0, 0, 0, 0, 0])
        picture.putpixel((1, 0), 1)
        picture.info["transparency"] = 1
    array = to_array(picture)
    assert array[0, :, 0, 1].tolist() == [1, 1, 1]
    assert (array[0, 1, 0, 0] < 0) and array.shape == (1, 3, 1, 2)


def test_half_transparent():
    assert to_array(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))[0, 0, 0, 0] == pytest.approx((255 - 128) / 127.5 - 1)


def test_masks_are_white_where_something_may_change():
    mask = Image.new("L", (2, 1))
    mask.putpixel((1, 0), 255)
    assert to_mask(mask).tolist() == [[[[0, 1]]]]


def test_a_data_url_gives_the_same_pixels():
    for mode in ("RGB", "RGBA", "L"):
        picture = gradient(mode)
        again = read(write_data_url(picture))
        assert (again.mode, again.tobytes()) == (mode, picture.tobytes())


def test_what_names_a_picture(tmp_path):
    path = tmp_path / "a.png"
    gradient().save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file that stays open warns
        for value in (gradient(), path, str(path)):
            assert read(value).tobytes() == gradient().tobytes()
        listed = read([path, gradient()])
    assert [p.size for p in listed] == [(16, 16)] * 2 and read(None) is None


def test_a_photograph_is_turned_the_way_its_file_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").size == (10, 20)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (2, 2), level) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "a.gif").convert("L").getpixel((0, 0)) == 10


def test_wrong_pictures(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("hello")
    cut = io.BytesIO()
    gradient().resize((200, 200)).save(cut, "PNG")
    half = base64.b64encode(cut.getvalue()[:300]).decode()
    for value, message in (
        (3, r"picture: must be a picture \(a PIL image, a path or a data: URL\), got int"),
        (tmp_path / "none.png", r"picture: there is no picture file .*none\.png"),
        ("https://a.b/c.png", r"picture: https://a\.b/c\.png is not fetched: .* download it first, and give its path"),
        (text, r"picture: .*a\.txt is not a picture that can be read: cannot identify image file"),
        (tmp_path, r"picture: .* is not a picture that can be read"),
        ("data:image/png;base64,!!!", r"picture: the data: URL is not a picture that can be read"),
        ("data:image/png;base64,", r"picture: the data: URL is not a picture that can be read"),
        (f"data:image/png;base64,{half}", r"picture: the data: URL is not a picture that can be read"),
    ):
        with pytest.raises(InputError, match=message):
            read(value)


def test_as_json():
    adapter = TypeAdapter(Picture)
    text = adapter.dump_json(gradient())
    assert adapter.validate_json(text).tobytes() == gradient().tobytes()
    assert adapter.json_schema()["format"] == "data-url"
    assert "data-url" in str(Pictures.model_json_schema())
