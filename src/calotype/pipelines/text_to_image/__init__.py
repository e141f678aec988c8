"""Text to image with the embedded model. What controls it loads on first use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names
from calotype.pipelines.text_to_image.pipeline import TextToImageInputs, TextToImagePipeline

if TYPE_CHECKING:
    from calotype.pipelines.text_to_image.controls import control, new_controlnet

__all__ = ["TextToImageInputs", "TextToImagePipeline", "control", "new_controlnet"]

__getattr__ = lazy_names(__name__, {"control": "controls", "new_controlnet": "controls"})
