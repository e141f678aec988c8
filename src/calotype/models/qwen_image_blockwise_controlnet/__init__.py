"""The blockwise ControlNets of Qwen-Image: what edges, depth or a masked picture add to the image after every block."""

from calotype.models.qwen_image_blockwise_controlnet.config import QwenImageBlockwiseControlNetConfig
from calotype.models.qwen_image_blockwise_controlnet.module import QwenImageBlockwiseControlNetModel

__all__ = ["QwenImageBlockwiseControlNetConfig", "QwenImageBlockwiseControlNetModel"]
