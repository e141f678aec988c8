"""The public names and where each lives, as data. Imports nothing, so that reading it costs nothing.

Two readers: the lazy attributes of the package, and the registry that decides which classes an index file may name.
"""

PUBLIC: dict[str, str] = {
    "Branch": "calotype.graph.branches",
    "Branches": "calotype.graph.branches",
    "NegativeOf": "calotype.graph.branches",
    "Component": "calotype.graph.hints",
    "Each": "calotype.graph.hints",
    "Pad": "calotype.graph.hints",
    "Inputs": "calotype.graph.inputs",
    "State": "calotype.graph.unit",
    "takes_over": "calotype.graph.unit",
    "unit": "calotype.graph.unit",
    "AutoencoderKL": "calotype.models.autoencoder_kl",
    "AutoencoderTiny": "calotype.models.autoencoder_tiny",
    "UNet2DModel": "calotype.models.unet_2d",
    "UNet2DConditionModel": "calotype.models.unet_2d_condition",
    "WordTokenizer": "calotype.models.word_text_encoder",
    "WordTextEncoder": "calotype.models.word_text_encoder",
    "MiniTransformer2DModel": "calotype.models.mini_transformer",
    "MiniAutoencoderKL": "calotype.models.mini_autoencoder",
    "ClassifierFree": "calotype.sampling",
    "DDIMScheduler": "calotype.sampling",
    "DDPMScheduler": "calotype.sampling",
    "Denoise": "calotype.sampling",
    "EulerAncestralDiscreteScheduler": "calotype.sampling",
    "EulerDiscreteScheduler": "calotype.sampling",
    "FlowMatchEuler": "calotype.sampling",
    "FlowMatchEulerDiscreteScheduler": "calotype.sampling",
    "Guidance": "calotype.sampling",
    "NoGuidance": "calotype.sampling",
    "NoiseLevels": "calotype.sampling",
    "Scheduler": "calotype.sampling",
    "Step": "calotype.sampling",
    "ModelConfig": "calotype.weights.pool.config",
    "CATALOGUE": "calotype.weights.pool.catalogue",
    "Catalogue": "calotype.weights.pool.catalogue",
    "ModelPool": "calotype.weights.pool.pool",
    "DiffusionPipeline": "calotype.pipelines.base",
    "takes": "calotype.pipelines.base",
    "UnitPack": "calotype.pipelines.packs",
    "Picture": "calotype.pipelines.pictures",
    "DDPMPipeline": "calotype.pipelines.ddpm",
    "TextToImagePipeline": "calotype.pipelines.text_to_image",
}
"""Public name -> the module that has it as an attribute of that name."""

ECOSYSTEM: frozenset[str] = frozenset(
    {
        "AutoencoderKL",
        "AutoencoderTiny",
        "UNet2DModel",
        "UNet2DConditionModel",
        "DDPMScheduler",
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "DiffusionPipeline",
        "DDPMPipeline",
    }
)
"""The public names that `diffusers` knows too. An index file calls their library `"diffusers"`; both can load it."""
