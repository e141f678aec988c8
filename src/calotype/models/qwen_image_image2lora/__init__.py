"""Image to LoRA: a network that makes, of a picture, the adapter that training on it would make."""

from calotype.models.qwen_image_image2lora.config import QwenImageImage2LoRAConfig
from calotype.models.qwen_image_image2lora.module import QwenImageImage2LoRAModel

__all__ = ["QwenImageImage2LoRAConfig", "QwenImageImage2LoRAModel"]
