"""Pictures and videos as arrays: layouts, ranges, and that 8 bits come back as they were."""

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.compat.diffsynth import FlowMatchScheduler
from calotype.errors import ComponentError, InputError
from compat.small import small

LEVELS = Image.fromarray(np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3))


@pytest.fixture(scope="module")
def pipe():
    return small()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ends", [(-1, 1), (0, 1), (0, 255)])
@pytest.mark.parametrize("pattern", ["B C H W", "C H W", "H W C", "B H W C"])
def test_encoding_then_decoding_gives_the_same_256_levels(pipe, dtype, ends, pattern):
    if ends == (0, 255) and dtype is torch.bfloat16:
        pytest.skip("bfloat16 holds whole numbers up to 256")
    low, high = ends
    array = pipe.preprocess_image(LEVELS, dtype, pattern=pattern, min_value=low, max_value=high)
    assert array.dtype is dtype and low <= array.min() and array.max() <= high
    back = pipe.vae_output_to_image(array, pattern=pattern, min_value=low, max_value=high)
    assert np.array_equal(np.asarray(back), np.asarray(LEVELS))


def test_an_array_has_the_pipelines_type_and_the_ends_of_its_range(pipe):
    white = pipe.preprocess_image(Image.new("RGB", (4, 2), (255, 0, 255)))
    assert white.dtype is pipe.torch_dtype and white.shape == (1, 3, 2, 4)
    assert white[0, :, 0, 0].tolist() == [1.0, -1.0, 1.0]


def test_values_are_rounded_to_the_nearest_level_and_cut_off_at_the_ends(pipe):
    values = torch.tensor([-2.0, -1.0, 0.499 / 127.5 - 1, 0.501 / 127.5 - 1, 1.0, 3.0]).view(1, 1, 1, 6)
    assert np.asarray(pipe.vae_output_to_image(values)).tolist() == [[0, 0, 0, 1, 255, 255]]


@pytest.mark.parametrize("pattern", ["B C T H W", "T C H W", "C T H W"])
def test_a_video_comes_back_frame_by_frame(pipe, pattern):
    frames = [LEVELS, LEVELS.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    array = pipe.preprocess_video(frames, pattern=pattern)
    back = pipe.vae_output_to_video(array, pattern=pattern)
    assert [f.tobytes() for f in back] == [f.tobytes() for f in frames]


def scheduler():
    made = FlowMatchScheduler("Wan")
    made.set_timesteps(4)
    return made


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda p: p.vae_output_to_image(torch.zeros(2, 3, 4, 4)), InputError, "got a batch of 2 in 'B C H W'"),
        (lambda p: p.vae_output_to_image(torch.zeros(3, 4, 4)), InputError, "has 4 dimensions, got an array of"),
        (lambda p: p.vae_output_to_image(torch.zeros(1, 3, 4, 4), pattern="B C H"), InputError, "must name C, H, W"),
        (lambda p: p.vae_output_to_image(torch.zeros(1), pattern="B C H W Q"), InputError, "write 'B C H W'"),
        (lambda p: p.vae_output_to_image(torch.zeros(1), min_value=1, max_value=1), InputError, "min_value must be"),
        (lambda p: p.vae_output_to_image(torch.full((1, 3, 4, 4), torch.nan)), ComponentError, "some are not finite"),
        (lambda p: p.vae_output_to_image([1]), InputError, "an array of a picture is a tensor, got list"),
        (lambda p: p.preprocess_image(None), InputError, "image: must be a picture (a PIL image, a path or a data: UR"),
        (lambda p: p.preprocess_image("no.png"), InputError, "image: there is no picture file no.png"),
        (lambda p: p.preprocess_video([None]), InputError, "image: must be a picture"),
        (lambda p: p.preprocess_video(3), InputError, "a video is a list of pictures, got int"),
        (lambda p: p.preprocess_video("a.mp4"), InputError, "a video is a list of pictures, got str"),
        (lambda p: p.check_resize_height_width(-1000, 64), InputError, "got -1000; nearest is 64"),
        (lambda p: p.generate_noise(None), InputError, "the sides of an array, such as (1, 16, 64, 64), got None"),
        (lambda p: p.generate_noise((1, 2.5)), InputError, "the sides of an array, such as (1, 16, 64, 64), got ("),
        (lambda p: p.load_models_to_device(None), InputError, "give the names of models, such as ('text_encoder',)"),
        (lambda p: scheduler().index_of(None), InputError, "a timestep is a number or a tensor, such as"),
        (lambda p: p.preprocess_video([]), InputError, "a video needs at least one frame"),
        (lambda p: p.preprocess_video([LEVELS, LEVELS.resize((8, 8))]), InputError, "one size, got 8x8 and 16x16"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(pipe, call, error, says):
    with pytest.raises(error) as raised:
        call(pipe)
    assert says in str(raised.value)


def test_sides_may_be_whole_numbers_of_another_library(pipe):
    assert torch.equal(pipe.generate_noise((1, np.int64(3)), seed=1), pipe.generate_noise((1, 3), seed=1))
