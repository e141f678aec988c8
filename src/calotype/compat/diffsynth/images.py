"""Pictures and videos to arrays and back, in the layouts that the dialect names by letters: `"B C H W"`."""

from collections.abc import Sequence

import torch
from einops import rearrange
from PIL import Image
from pydantic_core import PydanticCustomError
from torch import Tensor

from calotype.errors import InputError
from calotype.pipelines.pictures import read_picture, to_array, to_picture


def picture_to_array(
    image: Image.Image, pattern: str = "B C H W", min_value: float = -1.0, max_value: float = 1.0
) -> Tensor:
    """A picture as float32 values between `min_value` and `max_value`, laid out as `pattern` says.

    Raises:
        InputError: it is no picture, the pattern is no layout of one, or the range is empty.
    """
    _check(pattern, min_value, max_value, wanted="CHW", may="B")
    try:
        values = to_array(read_picture(image))
    except PydanticCustomError as error:
        raise InputError(f"image: {error.message()}") from None
    scaled = values if (min_value, max_value) == (-1.0, 1.0) else _scaled(values, -1.0, 1.0, min_value, max_value)
    target = pattern.replace("B", "1")
    return rearrange(scaled[0], f"C H W -> {target}")


def video_to_array(
    video: Sequence[Image.Image], pattern: str = "B C T H W", min_value: float = -1.0, max_value: float = 1.0
) -> Tensor:
    """Frames of one size as one array. Raises `InputError` for none, for several sizes, or for a wrong pattern."""
    _check(pattern, min_value, max_value, wanted="CTHW", may="B")
    given: object = video
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"a video is a list of pictures, got {type(video).__name__}")
    if not video:
        raise InputError("a video needs at least one frame, got none")
    frames = [picture_to_array(frame, "C H W", min_value, max_value) for frame in video]
    sizes = {(frame.shape[2], frame.shape[1]) for frame in frames}
    if len(sizes) > 1:
        found = " and ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise InputError(f"the frames of a video must be of one size, got {found}")
    return rearrange(torch.stack(frames), f"T C H W -> {pattern.replace('B', '1')}")


def array_to_picture(
    values: Tensor, pattern: str = "B C H W", min_value: float = -1.0, max_value: float = 1.0
) -> Image.Image:
    """One picture, rounded to the nearest of 256 levels: a picture that was made an array comes back as it was.

    Raises:
        InputError: the array is not laid out as `pattern` says, or holds several pictures.
        ComponentError: a value is not finite.
    """
    _check(pattern, min_value, max_value, wanted="CHW", may="B")
    return to_picture(_signed(_laid_out(values, pattern, "C H W"), min_value, max_value)[None])


def array_to_video(
    values: Tensor, pattern: str = "B C T H W", min_value: float = -1.0, max_value: float = 1.0
) -> list[Image.Image]:
    """The frames of one video; raises as `array_to_picture` does."""
    _check(pattern, min_value, max_value, wanted="CTHW", may="B")
    frames = _signed(_laid_out(values, pattern, "T C H W"), min_value, max_value)
    return [to_picture(frame[None]) for frame in frames]


def _laid_out(values: Tensor, pattern: str, target: str) -> Tensor:
    letters = pattern.split()
    if not isinstance(values, Tensor):
        raise InputError(f"an array of a picture is a tensor, got {type(values).__name__}")
    if values.ndim != len(letters):
        raise InputError(f"pattern {pattern!r} has {len(letters)} dimensions, got an array of {list(values.shape)}")
    if "B" in letters:
        at = letters.index("B")
        if values.shape[at] != 1:
            raise InputError(
                f"one picture or video at a time, got a batch of {values.shape[at]} in {pattern!r}; "
                "write values[i : i + 1]"
            )
        values = values.squeeze(at)
        letters.remove("B")
    laid: Tensor = rearrange(values.detach().float(), f"{' '.join(letters)} -> {target}")
    return laid


def _signed(values: Tensor, low: float, high: float) -> Tensor:
    return values if (low, high) == (-1.0, 1.0) else _scaled(values, low, high, -1.0, 1.0)


def _scaled(values: Tensor, low: float, high: float, to_low: float, to_high: float) -> Tensor:
    return (values - low) * ((to_high - to_low) / (high - low)) + to_low


def _check(pattern: str, low: float, high: float, *, wanted: str, may: str) -> None:
    letters = pattern.split()
    found = set(letters)
    if len(found) != len(letters) or not set(wanted) <= found <= set(wanted + may):
        raise InputError(
            f"pattern must name {', '.join(wanted)} once each, and {may} at most once, got {pattern!r}; "
            f"write {' '.join(may + wanted)!r}"
        )
    if not low < high:
        raise InputError(f"min_value must be below max_value, got {low!r} and {high!r}")
