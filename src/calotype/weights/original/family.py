"""Which published family the file of a whole pipeline is of, and what was published with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calotype.weights.original.unet import text_width
from calotype.weights.pool.layout import Whole

_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
_OLD = {"clip_sample": False, "set_alpha_to_one": False}
_EULER = {"_class_name": "EulerDiscreteScheduler", **_BETAS, "timestep_spacing": "leading"}


@dataclass(frozen=True)
class Family:
    """What files of one family have in common and their tensors do not say."""

    name: str
    architecture: str
    """What `modelspec.architecture` begins with, in the metadata of such files."""
    text: int
    """The width of the text that the denoiser attends to."""
    scheduler: Mapping[str, Any]
    """The scheduler that was published with it, as its configuration file says it, but for the prediction type."""
    pipelines: Mapping[int, str]
    """The pipeline for a denoiser that sees this many channels."""
    encoders: tuple[str, ...] = ("text_encoder",)
    """The text encoders that its files have."""
    scaling_factor: float = 0.18215
    latent_channels: int = 4
    prediction_type: str | None = "epsilon"
    """What the denoiser predicts; None where files that look the same were published with either."""
    predictions: Mapping[int, str] = field(default_factory=dict)
    """The same for denoisers that see so many channels, where that tells more."""
    sides: Mapping[str, int] = field(default_factory=dict)
    """What a denoiser predicts -> the size of the latents that it was trained with, where its tensors do not say."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain settings of the pipeline."""


_PIPELINES = {
    4: "StableDiffusionPipeline",
    8: "StableDiffusionInstructPix2PixPipeline",
    9: "StableDiffusionInpaintPipeline",
}
_PIPELINES_XL = {4: "StableDiffusionXLPipeline", 9: "StableDiffusionXLInpaintPipeline"}

FAMILIES = (
    Family(
        "Stable Diffusion 1", "stable-diffusion-v1", 768,
        {"_class_name": "PNDMScheduler", **_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False}, _PIPELINES,
    ),
    Family(
        "Stable Diffusion 2", "stable-diffusion-v2", 1024,
        {"_class_name": "DDIMScheduler", **_BETAS, **_OLD}, _PIPELINES,
        prediction_type=None, predictions={9: "epsilon"}, sides={"epsilon": 64, "v_prediction": 96},
    ),
    Family(
        "Stable Diffusion XL", "stable-diffusion-xl-v1-base", 2048, _EULER, _PIPELINES_XL,
        encoders=("text_encoder", "text_encoder_2"), scaling_factor=0.13025,
    ),
    Family(
        "Stable Diffusion XL's refiner", "stable-diffusion-xl-v1-refiner", 1280, _EULER,
        {4: "StableDiffusionXLImg2ImgPipeline"},
        encoders=("text_encoder_2",), scaling_factor=0.13025, settings={"force_zeros_for_empty_prompt": False},
    ),
)  # fmt: skip
"""The families whose files are known."""

ARCHITECTURE = "modelspec.architecture"
PREDICTION = "modelspec.prediction_type"
_PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
RESOLUTION = re.compile(r"(\d+)x(\d+)")
"""What `modelspec.resolution` is like: the width and the height of the pictures that the network was trained with."""
_V, _ZERO = "v_pred", "ztsnr"
"""Keys of tensors that stand for a fact and nothing else."""
_OTHERWISE = frozenset({"edm_mean", "edm_std"})
"""Keys of files whose latents are scaled in a way of their own, which no family's is."""


def family_of(whole: Whole) -> Family | None:
    """The family of a file: by the width of text that its denoiser attends to, else by what its metadata says; None for
    a file of no family, or of part of a pipeline that does not say of which."""
    if not _OTHERWISE.isdisjoint(whole.shapes):
        return None
    text = text_width({key: shape for key, shape in whole.shapes.items() if ".attn2." in key})
    if text is not None:
        return next((family for family in FAMILIES if family.text == text), None)
    said = whole.metadata.get(ARCHITECTURE, "")
    return next((family for family in FAMILIES if said.startswith(family.architecture)), None)


def prediction_type(whole: Whole) -> str | None:
    """What the file itself says that its denoiser predicts; None where it does not."""
    said = whole.metadata.get(PREDICTION)
    if said is not None:
        return _PREDICTIONS.get(said.lower())
    return "v_prediction" if _V in whole.shapes else None


def trained_size(whole: Whole, family: Family, prediction: str, factor: int) -> int | tuple[int, int] | None:
    """The size of the latents that the denoiser was trained with, where its tensors do not tell: what metadata says,
    else what was published with such a prediction. `factor`: the pixels along a side of one of its latents."""
    said = RESOLUTION.fullmatch(whole.metadata.get("modelspec.resolution", ""))
    if said is None:
        return family.sides.get(prediction)
    width, height = (int(side) // factor for side in said.groups())
    return width if width == height else (height, width)


def is_trained_to_pure_noise(whole: Whole) -> bool:
    """Whether the file says that its last step of training is pure noise: Lin et al., "Common Diffusion Noise Schedules
    and Sample Steps Are Flawed"."""
    return _ZERO in whole.shapes
