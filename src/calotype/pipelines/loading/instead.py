"""What loads a repository whose index names a class of the ecosystem that calotype does not have, as data."""

from calotype._names import PUBLIC

PAG = "and take guidance=PerturbedAttention(...) in the call"
T2I = "and insert .with_units(t2i_adapter(), adapter=T2IAdapter.from_pretrained(...))"
EDICT = 'and insert .with_units("edict") to edit a picture by its prompt'
LCM = "and insert .with_units(distilled_guidance()), of calotype.pipelines.stable_diffusion"

INSTEAD: dict[str, tuple[str, str]] = {
    "CycleDiffusionPipeline": ("StableDiffusionPipeline", EDICT),
    "LatentConsistencyModelPipeline": ("StableDiffusionPipeline", LCM),
    "LatentConsistencyModelImg2ImgPipeline": ("StableDiffusionImg2ImgPipeline", LCM),
    "StableDiffusionAdapterPipeline": ("StableDiffusionPipeline", T2I),
    "StableDiffusionAttendAndExcitePipeline": ("StableDiffusionPipeline", ""),
    "StableDiffusionDiffEditPipeline": ("StableDiffusionPipeline", EDICT),
    "StableDiffusionInpaintPipelineLegacy": ("StableDiffusionInpaintPipeline", ""),
    "StableDiffusionPanoramaPipeline": ("StableDiffusionPipeline", ""),
    "StableDiffusionPix2PixZeroPipeline": ("StableDiffusionPipeline", EDICT),
    "StableDiffusionSAGPipeline": ("StableDiffusionPipeline", ""),
    "StableDiffusionXLAdapterPipeline": ("StableDiffusionXLPipeline", T2I),
}
"""Name of a class -> the class that has the same components, and what does the rest."""

NEEDED: dict[str, str] = {
    "StableDiffusionDepth2ImgPipeline": "a network that sees depth beside the latents",
    "StableDiffusionImageVariationPipeline": "a network that is told a picture in the place of a prompt",
    "StableDiffusionLatentUpscalePipeline": "a U-Net of another kind",
    "StableDiffusionUpscalePipeline": "a network that sees a small picture beside the latents",
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": "a ControlNet that is told which kind of picture it sees",
    "StableDiffusionXLControlNetUnionInpaintPipeline": "a ControlNet that is told which kind of picture it sees",
    "StableDiffusionXLControlNetUnionPipeline": "a ControlNet that is told which kind of picture it sees",
    "StableDiffusionXLInstructPix2PixPipeline": "a network of XL that sees the picture to edit beside the latents",
}
"""Name of a class -> what calotype would have to call, and has no units for."""


def advice(name: str, repository: str) -> str:
    """What to do about a repository of a class that calotype does not have."""
    without = name.replace("PAG", "")
    if name in INSTEAD or ("PAG" in name and without in PUBLIC):
        cls, more = INSTEAD.get(name, (without, PAG))
        return f"it has the components of {cls}: load it with {cls}.from_pretrained({repository!r}) {more}".strip()
    if name in NEEDED:
        return (
            f"it is for {NEEDED[name]}, which calotype has no units for; write a pipeline of your own (docs/tutorial)"
        )
    return (
        "install the package that has it, or load it with the pipeline class that you want: "
        f"YourPipeline.from_pretrained({repository!r})"
    )
