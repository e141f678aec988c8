"""calotype turns noise into pictures, video and sound through pipelines that are plain typed functions.

The names below load on first use, so that importing one costs one, and `import calotype` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from calotype._lazy import import_quickly
from calotype._names import PUBLIC

if TYPE_CHECKING:
    from calotype.graph.branches import Branch, Branches, NegativeOf
    from calotype.graph.hints import Component, Each, Pad, Settings
    from calotype.graph.inputs import Inputs
    from calotype.graph.take_over import State, takes_over
    from calotype.graph.unit import unit
    from calotype.models.autoencoder_kl import AutoencoderKL
    from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
    from calotype.models.autoencoder_tiny import AutoencoderTiny
    from calotype.models.clip_text import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from calotype.models.controlnet import ControlNetModel
    from calotype.models.ip_adapter import IPAdapter
    from calotype.models.mini_autoencoder import MiniAutoencoderKL
    from calotype.models.mini_transformer import MiniTransformer2DModel
    from calotype.models.qwen_image import QwenImageControlNetModel, QwenImageTransformer2DModel
    from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
    from calotype.models.qwen_image_image2lora import QwenImageImage2LoRAModel
    from calotype.models.t2i_adapter import T2IAdapter
    from calotype.models.unet_2d import UNet2DModel
    from calotype.models.unet_2d_condition import UNet2DConditionModel
    from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer
    from calotype.nn.attention_control import AttentionControl
    from calotype.pipelines.adapter_records import AdapterInfo
    from calotype.pipelines.base import DiffusionPipeline, takes
    from calotype.pipelines.ddpm import DDPMPipeline
    from calotype.pipelines.packs import UnitPack
    from calotype.pipelines.pictures import Picture, to_picture
    from calotype.pipelines.qwen_image import (
        QwenImageControlNetInpaintPipeline,
        QwenImageControlNetPipeline,
        QwenImageEditInpaintPipeline,
        QwenImageEditPipeline,
        QwenImageEditPlusPipeline,
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImageLayeredPipeline,
        QwenImagePipeline,
    )
    from calotype.pipelines.replay import read_recipe, replay
    from calotype.pipelines.result import Result
    from calotype.pipelines.stable_diffusion import (
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionControlNetInpaintPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionInstructPix2PixPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetInpaintPipeline,
        StableDiffusionXLControlNetPipeline,
        StableDiffusionXLEnsemblePipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
        StableDiffusionXLPipeline,
    )
    from calotype.pipelines.text_to_image import TextToImagePipeline
    from calotype.sampling import (
        APG,
        AutoGuidance,
        CFGZeroStar,
        ClassifierFree,
        CosineDPMSolverMultistepScheduler,
        DDIMInverseScheduler,
        DDIMScheduler,
        DDPMScheduler,
        DEISMultistepScheduler,
        Denoise,
        DPMSolverMultistepInverseScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSDEScheduler,
        DPMSolverSinglestepScheduler,
        EDMDPMSolverMultistepScheduler,
        EDMEulerScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEuler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        FlowMatchLCMScheduler,
        Guidance,
        HeunDiscreteScheduler,
        KDPM2AncestralDiscreteScheduler,
        KDPM2DiscreteScheduler,
        LCMScheduler,
        LMSDiscreteScheduler,
        NoGuidance,
        NoiseLevels,
        NormKept,
        PerturbedAttention,
        PNDMScheduler,
        Rescaled,
        SASolverScheduler,
        Scheduler,
        SkipLayers,
        StatefulGuidance,
        Step,
        TCDScheduler,
        UniPCMultistepScheduler,
        Weak,
        Within,
    )
    from calotype.sampling.caching import FirstBlockCache, MagCache, StepCache, TaylorCache, TeaCache
    from calotype.sampling.parameters import Estimate
    from calotype.sampling.steering import AttentionSteering, BlockReuse
    from calotype.weights.pool.catalogue import CATALOGUE, Catalogue
    from calotype.weights.pool.config import ModelConfig
    from calotype.weights.pool.pool import ModelPool

__version__ = "0.1.0"

__all__ = [
    "APG",
    "CATALOGUE",
    "AdapterInfo",
    "AttentionControl",
    "AttentionSteering",
    "AutoGuidance",
    "AutoencoderKL",
    "AutoencoderKLQwenImage",
    "AutoencoderTiny",
    "BlockReuse",
    "Branch",
    "Branches",
    "CFGZeroStar",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "Catalogue",
    "ClassifierFree",
    "Component",
    "ControlNetModel",
    "CosineDPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DDPMPipeline",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "Denoise",
    "DiffusionPipeline",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "Each",
    "Estimate",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FirstBlockCache",
    "FlowMatchEuler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "Guidance",
    "HeunDiscreteScheduler",
    "IPAdapter",
    "Inputs",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "MagCache",
    "MiniAutoencoderKL",
    "MiniTransformer2DModel",
    "ModelConfig",
    "ModelPool",
    "NegativeOf",
    "NoGuidance",
    "NoiseLevels",
    "NormKept",
    "PNDMScheduler",
    "Pad",
    "PerturbedAttention",
    "Picture",
    "QwenImageBlockwiseControlNetModel",
    "QwenImageControlNetInpaintPipeline",
    "QwenImageControlNetModel",
    "QwenImageControlNetPipeline",
    "QwenImageEditInpaintPipeline",
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "QwenImageImage2LoRAModel",
    "QwenImageImg2ImgPipeline",
    "QwenImageInpaintPipeline",
    "QwenImageLayeredPipeline",
    "QwenImagePipeline",
    "QwenImageTransformer2DModel",
    "Rescaled",
    "Result",
    "SASolverScheduler",
    "Scheduler",
    "Settings",
    "SkipLayers",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLEnsemblePipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "State",
    "StatefulGuidance",
    "Step",
    "StepCache",
    "T2IAdapter",
    "TCDScheduler",
    "TaylorCache",
    "TeaCache",
    "TextToImagePipeline",
    "UNet2DConditionModel",
    "UNet2DModel",
    "UniPCMultistepScheduler",
    "UnitPack",
    "Weak",
    "Within",
    "WordTextEncoder",
    "WordTokenizer",
    "read_recipe",
    "replay",
    "takes",
    "takes_over",
    "to_picture",
    "unit",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        from calotype.errors import did_you_mean

        raise AttributeError(f"module 'calotype' has no attribute {name!r}{did_you_mean(name, PUBLIC)}")
    value = getattr(import_quickly(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
