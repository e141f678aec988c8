"""What published index files call classes that have another name today, as data."""

ALIASES: dict[tuple[str, str], tuple[str, str]] = {
    # transformers 5 dropped the feature extractors of pictures, whose configuration files image processors read
    ("transformers", "CLIPFeatureExtractor"): ("transformers", "CLIPImageProcessor"),
    ("transformers", "DPTFeatureExtractor"): ("transformers", "DPTImageProcessor"),
    ("transformers", "ViTFeatureExtractor"): ("transformers", "ViTImageProcessor"),
    ("transformers", "DeiTFeatureExtractor"): ("transformers", "DeiTImageProcessor"),
    ("transformers", "SegformerFeatureExtractor"): ("transformers", "SegformerImageProcessor"),
    ("transformers", "BeitFeatureExtractor"): ("transformers", "BeitImageProcessor"),
    ("transformers", "ConvNextFeatureExtractor"): ("transformers", "ConvNextImageProcessor"),
    ("transformers", "CLIPTokenizerFast"): ("transformers", "CLIPTokenizer"),
    ("transformers", "AutoModelForVision2Seq"): ("transformers", "AutoModelForImageTextToText"),
}
"""`(library, class)` as an index says it -> the same component today."""

SAME: dict[str, str] = {
    "DDIMParallelScheduler": "DDIMScheduler",
    "DDPMParallelScheduler": "DDPMScheduler",
}
"""A class of diffusers -> the one of calotype that has the same fields and makes the same steps."""

HOMES: dict[tuple[str, str], str] = {
    ("stable_diffusion", "StableDiffusionSafetyChecker"): "diffusers.pipelines.stable_diffusion.safety_checker",
    ("latent_diffusion", "LDMBertModel"): "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion",
    (
        "stable_diffusion",
        "StableUnCLIPImageNormalizer",
    ): "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer",
    ("kandinsky", "MultilingualCLIP"): "diffusers.pipelines.kandinsky.text_encoder",
    ("kolors", "ChatGLMModel"): "diffusers.pipelines.kolors.text_encoder",
    ("kolors", "ChatGLMTokenizer"): "diffusers.pipelines.kolors.tokenizer",
    ("shap_e", "ShapERenderer"): "diffusers.pipelines.shap_e.renderer",
    ("deepfloyd_if", "IFSafetyChecker"): "diffusers.pipelines.deepfloyd_if.safety_checker",
    ("deepfloyd_if", "IFWatermarker"): "diffusers.pipelines.deepfloyd_if.watermark",
    ("audioldm2", "AudioLDM2ProjectionModel"): "diffusers.pipelines.audioldm2.modeling_audioldm2",
    ("audioldm2", "AudioLDM2UNet2DConditionModel"): "diffusers.pipelines.audioldm2.modeling_audioldm2",
    ("stable_audio", "StableAudioProjectionModel"): "diffusers.pipelines.stable_audio.modeling_stable_audio",
    ("ltx", "LTXLatentUpsamplerModel"): "diffusers.pipelines.ltx.modeling_latent_upsampler",
}
"""`(library, class)` of indexes that name a folder of diffusers' pipelines as the library -> the module it is in. The
table is the whole list: an entry that is not here is not imported."""
