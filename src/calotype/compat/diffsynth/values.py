"""The values of a dialect pipeline: noise, pictures and videos as arrays and back, sizes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from calotype.compat.diffsynth.images import array_to_picture, array_to_video, picture_to_array, video_to_array
from calotype.errors import InputError
from calotype.memory.residency import parse_device
from calotype.weights.dtypes import parse_dtype


class Values:
    """What a pipeline offers to its units for making and reading values."""

    device: torch.device
    torch_dtype: torch.dtype
    height_division_factor: int
    width_division_factor: int
    time_division_factor: int | None
    time_division_remainder: int | None

    def check_resize_height_width(self, height: int, width: int, num_frames: int | None = None) -> tuple[int, ...]:
        """The size, if the models can take it. It is not rounded: what follows from the size that was asked for, such
        as the scheduler's shift, is then of the size that is made.

        Raises:
            InputError: a side or the number of frames is not allowed, with the nearest that is.
        """
        _refuse_side("height", height, self.height_division_factor, 0)
        _refuse_side("width", width, self.width_division_factor, 0)
        if num_frames is None:
            return height, width
        _refuse_side("num_frames", num_frames, self.time_division_factor or 1, self.time_division_remainder or 0)
        return height, width, num_frames

    def generate_noise(
        self,
        shape: Sequence[int],
        seed: int | None = None,
        rand_device: torch.device | str = "cpu",
        rand_torch_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Standard normal noise, drawn on `rand_device` in `rand_torch_dtype`, so that a seed is the same noise
        everywhere. Without a seed it comes from torch's own generator.

        Raises:
            InputError: a side or the seed is no whole number, or there is no such device or type.
        """
        if not isinstance(shape, Sequence) or not all(hasattr(side, "__index__") and side >= 0 for side in shape):
            raise InputError(f"generate_noise takes the sides of an array, such as (1, 16, 64, 64), got {shape!r}")
        place = parse_device(rand_device)
        generator = None if seed is None else torch.Generator(place).manual_seed(whole("seed", seed))
        noise = torch.randn(tuple(shape), generator=generator, device=place, dtype=value_type(rand_torch_dtype))
        return self._put(noise, device, torch_dtype)

    def preprocess_image(
        self,
        image: Image.Image,
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        pattern: str = "B C H W",
        min_value: float = -1,
        max_value: float = 1,
    ) -> Tensor:
        """A picture as an array, [1, 3, height, width] by default. See `vae_output_to_image`, its inverse."""
        return self._put(picture_to_array(image, pattern, min_value, max_value), device, torch_dtype)

    def preprocess_video(
        self,
        video: Sequence[Image.Image],
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        pattern: str = "B C T H W",
        min_value: float = -1,
        max_value: float = 1,
    ) -> Tensor:
        """Frames as an array, [1, 3, frames, height, width] by default."""
        return self._put(video_to_array(video, pattern, min_value, max_value), device, torch_dtype)

    def _put(self, values: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
        """Values on a device and in a type, by default the pipeline's."""
        place = self.device if device is None else parse_device(device)
        return values.to(device=place, dtype=self.torch_dtype if dtype is None else value_type(dtype))

    def vae_output_to_image(
        self, vae_output: Tensor, pattern: str = "B C H W", min_value: float = -1, max_value: float = 1
    ) -> Image.Image:
        """One picture from an array, rounded to the nearest of 256 levels. Raises `InputError` for several."""
        return array_to_picture(vae_output, pattern, min_value, max_value)

    def vae_output_to_video(
        self, vae_output: Tensor, pattern: str = "B C T H W", min_value: float = -1, max_value: float = 1
    ) -> list[Image.Image]:
        """The frames of one video from an array."""
        return array_to_video(vae_output, pattern, min_value, max_value)

    @staticmethod
    def blend_with_mask(base: Tensor, addition: Tensor, mask: Tensor) -> Tensor:
        """`addition` where the mask is 1, `base` where it is 0."""
        return torch.lerp(base, addition, mask.to(base.dtype))


def whole(name: str, value: Any) -> int:
    """A whole number. Raises `InputError` for anything else."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def finite(name: str, value: Any) -> float:
    """A finite number. Raises `InputError` for anything else."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return number


def value_type(dtype: torch.dtype | str) -> torch.dtype:
    """The type of values between units. Raises `InputError` for what is no floating-point type."""
    found = parse_dtype(dtype)
    if found is None:
        raise InputError("torch_dtype must be a type, got 'auto': values between units have one; write torch.bfloat16")
    return found


def _refuse_side(name: str, value: int, factor: int, remainder: int) -> None:
    if whole(name, value) > 0 and value % factor == remainder:
        return
    low = (value - remainder) // factor * factor + remainder
    near = min((v for v in (low, low + factor, remainder or factor) if v > 0), key=lambda v: abs(v - value))
    plus = f" plus {remainder}" if remainder else ""
    raise InputError(f"{name} must be a multiple of {factor}{plus}, got {value}; nearest is {near}")
