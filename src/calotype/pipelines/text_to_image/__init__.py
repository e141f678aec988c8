"""Text to image with the embedded model."""

from calotype.pipelines.text_to_image.pipeline import TextToImageInputs, TextToImagePipeline

__all__ = ["TextToImageInputs", "TextToImagePipeline"]
