"""Shapes and types at the boundaries of networks and of their units are checked at run time here, and only here."""

from jaxtyping import install_import_hook

from hub import hub  # noqa: F401 - a fixture

CHECKED = (
    "calotype.nn",
    "calotype.models.mini_autoencoder.module",
    "calotype.models.mini_transformer.module",
    "calotype.models.unet_2d",
    "calotype.models.word_text_encoder.module",
    "calotype.pipelines.ddpm.units",
    "calotype.pipelines.latents",
    "calotype.pipelines.pictures",
    "calotype.pipelines.text_to_image.units",
)

install_import_hook(list(CHECKED), "beartype.beartype")
