"""Unconditional diffusion on pixels: Ho et al., "Denoising Diffusion Probabilistic Models", 2020."""

from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.inputs import MOST_IMAGES
from calotype.models.unet_2d import UNet2DModel
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.ddpm.units import image, noise, predicted
from calotype.pipelines.declared import made
from calotype.pipelines.inputs import CacheInputs, refuse_both
from calotype.pipelines.latents import Generator, all_sigmas, noise_source, pure_noise
from calotype.sampling import Denoise, Scheduler


class DDPMInputs(CacheInputs):
    """What a user may set."""

    num_images: int = Field(
        default=1,
        ge=1,
        le=MOST_IMAGES,
        validation_alias=AliasChoices("num_images", "batch_size"),
        description="How many images to make.",
    )
    num_inference_steps: int = Field(default=1000, ge=1, description="How many denoising steps to take.")
    generator: Generator | None = Field(
        default=None,
        description="Draw all noise from this generator instead of from seeds; such a call cannot be replayed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_of_each(cls, values: Any) -> Any:
        return refuse_both(values, ("num_images", "batch_size"), ("generator", "seed"))


def _ddpm() -> Scheduler:
    from calotype.sampling import DDPMScheduler  # only who has no scheduler of their own needs it

    return DDPMScheduler()


class DDPMPipeline(DiffusionPipeline):
    """Draws pictures like those that its network was trained on."""

    unet: UNet2DModel
    scheduler: Scheduler = made(_ddpm)

    units = (
        noise_source,
        noise,
        all_sigmas.renamed(all_sigmas="sigmas"),
        pure_noise.renamed(pure_noise="latents"),
        Denoise(predicted, guidance=None, noise_source="noise_source", cache="cache"),
        image,
    )
    __call__ = takes(DDPMInputs)
