"""How much to change, pixel by pixel: a pack of units for image-to-image with a map of strengths.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("differential")
pipe(prompt="a red apple", image=picture, change_map=greys, strength=1.0, seed=7)

Source: Levin and Fried, "Differential Diffusion: Giving Each Pixel Its Strength", 2023, algorithm 1.
"""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from calotype import Each, Inputs, NoiseLevels, Picture, Scheduler, Step, UnitPack, unit
from calotype.errors import InputError
from calotype.pipelines.latents import CleanLatents, Latents, Noise
from calotype.pipelines.pictures import fitted, to_mask


class DifferentialInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    change_map: Each[Picture] | None = Field(
        default=None,
        description="As large as the picture: the strength at each pixel, from black (kept) to white, at most "
        "`strength`.",
    )


@unit
def change(
    change_map: Picture, image: Picture, image_latents: CleanLatents, height: int, width: int
) -> Float[Tensor, "1 1 h8 w8"]:
    """The map at the size of the latents. Raises `InputError` when it is not as large as the picture."""
    if change_map.size != image.size:
        wanted, found = ("x".join(map(str, picture.size)) for picture in (image, change_map))
        raise InputError(f"change_map must be as large as image, {wanted}, got {found}")
    strengths = to_mask(fitted(change_map, height, width)).to(image_latents.device)
    return interpolate(strengths, image_latents.shape[-2:], mode="area")


@unit
def held(
    latents: Latents,
    change: Float[Tensor, "1 1 h8 w8"],
    start: float,
    image_latents: CleanLatents,
    noise: Noise,
    sigmas: NoiseLevels,
    step: Step,
    *,
    scheduler: Scheduler,
) -> Latents:
    """After a step, hold what is not to change yet: where more of the loop is left than the map's strength."""
    left = start * (1 - (step.index + 1) / step.count)
    finished = step.index + 1 == step.count
    known = image_latents if finished else scheduler.noised(image_latents, noise, sigmas, step.index + 1)
    return Latents(latents.where(change > left + 1e-6, known))


DIFFERENTIAL = UnitPack((change,), DifferentialInputs, after_step=(held,))
