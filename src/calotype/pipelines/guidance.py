"""Units that make the guidance policy from what a user sets."""

from calotype.errors import UnusedInput
from calotype.graph.unit import unit
from calotype.sampling import ClassifierFree, Guidance


@unit
def guidance(guidance_scale: float, guidance_rescale: float, guidance_interval: tuple[float, float]) -> Guidance:
    """Classifier-free guidance, with rescale and interval. Raises `UnusedInput` for these where guidance is off."""
    if guidance_scale == 1 and (guidance_rescale != 0 or guidance_interval != (0.0, 1.0)):
        raise UnusedInput("guidance_rescale and guidance_interval have no effect with guidance_scale=1; leave them out")
    return ClassifierFree(guidance_scale, guidance_rescale, guidance_interval)
