"""The public names and where each lives, as data. Imports nothing, so that reading it costs nothing.

Two readers: the lazy attributes of the package, and the registry that decides which classes an index file may name.
"""

PUBLIC: dict[str, str] = {
    "UNet2DModel": "calotype.models.unet_2d",
    "WordTokenizer": "calotype.models.word_text_encoder",
    "WordTextEncoder": "calotype.models.word_text_encoder",
    "MiniTransformer2DModel": "calotype.models.mini_transformer",
    "MiniAutoencoderKL": "calotype.models.mini_autoencoder",
    "DDPMScheduler": "calotype.sampling",
    "DDIMScheduler": "calotype.sampling",
    "EulerDiscreteScheduler": "calotype.sampling",
    "EulerAncestralDiscreteScheduler": "calotype.sampling",
    "FlowMatchEulerDiscreteScheduler": "calotype.sampling",
    "DiffusionPipeline": "calotype.pipelines",
    "DDPMPipeline": "calotype.pipelines",
    "TextToImagePipeline": "calotype.pipelines",
}
"""Public name -> the module that has it as an attribute of that name."""

ECOSYSTEM: frozenset[str] = frozenset(
    {
        "UNet2DModel",
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
