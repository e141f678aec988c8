"""Shapes and types at the boundaries of networks and of their units are checked at run time here, and only here."""

import uuid

import pytest
from jaxtyping import install_import_hook

from hub import hub  # noqa: F401 - a fixture

CHECKED = (
    "calotype.nn",
    "calotype.models.autoencoder_kl",
    "calotype.models.autoencoder_kl_qwen_image",
    "calotype.models.autoencoder_tiny",
    "calotype.models.clip_text.module",
    "calotype.models.mini_autoencoder.module",
    "calotype.models.mini_transformer.module",
    "calotype.models.qwen_image.controlnet",
    "calotype.models.qwen_image.module",
    "calotype.models.qwen_image.parts",
    "calotype.models.qwen_image.positions",
    "calotype.models.qwen_image_blockwise_controlnet",
    "calotype.models.unet_2d",
    "calotype.models.unet_2d_condition",
    "calotype.models.word_text_encoder.module",
    "calotype.pipelines.autoencoder",
    "calotype.pipelines.ddpm.units",
    "calotype.pipelines.latents",
    "calotype.pipelines.pictures",
    "calotype.pipelines.qwen_image.controls",
    "calotype.pipelines.qwen_image.editing",
    "calotype.pipelines.qwen_image.layered",
    "calotype.pipelines.qwen_image.regional",
    "calotype.pipelines.qwen_image.units",
    "calotype.pipelines.stable_diffusion.sdxl_units",
    "calotype.pipelines.stable_diffusion.text",
    "calotype.pipelines.stable_diffusion.units",
    "calotype.pipelines.text_to_image.units",
)

install_import_hook(list(CHECKED), "beartype.beartype")


@pytest.fixture(autouse=True)
def _approves_nothing(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or changes what the user who runs it approved."""
    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path_factory.getbasetemp() / f"home-{uuid.uuid4().hex[:8]}"))
