"""Running a pipeline or a pack once, on weights that are small or ship with the package."""

from collections.abc import Mapping
from typing import Any

from calotype.errors import GraphError, InputError
from calotype.graph.hints import accepts_none, bare
from calotype.graph.inputs import RESERVED, fields_of
from calotype.models.unet_2d import UNet2DModel
from calotype.pipelines.base import DiffusionPipeline
from calotype.pipelines.declared import constructor_parameters
from calotype.pipelines.packs import UnitPack
from calotype.sampling import DDPMScheduler

EMBEDDED = "calotype/emoji-64"
PROMPT = "a red apple"
FEW = {"steps": 2, "num_inference_steps": 2}
"""Inputs that decide how long a call takes."""


def pipeline_of(made: type[DiffusionPipeline] | UnitPack, weights: str | None) -> DiffusionPipeline:
    """A pipeline to try: of the class, over `weights` or tiny components of the types that it declares; or the embedded
    model's, or that of `weights`, with the pack inserted where it fits.

    Raises:
        InputError: it needs a component that is not made here.
        GraphError: the pack fits nowhere.
    """
    if isinstance(made, UnitPack):
        return inserted_somewhere(DiffusionPipeline.from_pretrained(weights or EMBEDDED), made)
    if weights is not None:
        return made.from_pretrained(weights)
    return made(**tiny_components(made))


def inserted_somewhere(pipe: DiffusionPipeline, pack: UnitPack) -> DiffusionPipeline:
    """The pipeline with the pack before its loop or, where that does not fit, after the first unit where it does."""
    try:
        return pipe.with_units(pack)
    except GraphError as error:
        for node in pipe.units:
            try:
                return pipe.with_units(pack, after=node.name)
            except GraphError:
                continue
        raise error


def tiny_components(cls: type[DiffusionPipeline]) -> dict[str, Any]:
    """Components for a class, by the types it declares or, where it declares none, by their usual names."""
    if cls.units:
        types = {name: bare(hint) for name, hint in cls._declared.items() if getattr(cls, name, None) is None}
        types = {name: hint for name, hint in types.items() if not accepts_none(cls._declared[name])}
    else:
        needed = [p for p in constructor_parameters(cls) if p.default is p.empty]
        types = {p.name: None if p.annotation is p.empty else p.annotation for p in needed}
    embedded = DiffusionPipeline.from_pretrained(EMBEDDED).components
    return {name: _tiny(cls, name, hint, embedded) for name, hint in types.items()}


def trial_call(pipe: DiffusionPipeline, call: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a call that takes little time: those given, a prompt for each text that is required, few steps."""
    if not pipe.units:
        return dict(call)
    fields = {name: field for name, field in fields_of(type(pipe).Inputs).items() if name not in RESERVED}
    made: dict[str, Any] = {name: PROMPT for name, f in fields.items() if f.required and bare(f.hint) is str}
    made |= {name: count for name, count in FEW.items() if name in fields}
    return {**made, "seed": 0, **call}


def try_out(
    made: type[DiffusionPipeline] | UnitPack, weights: str | None, call: Mapping[str, Any]
) -> DiffusionPipeline:
    """Run it once, and return the pipeline that ran.

    Raises:
        InputError: a unit of a pack was skipped, because an input of it was not given.
    """
    pipe = pipeline_of(made, weights)
    inputs = trial_call(pipe, call)
    if isinstance(made, UnitPack):
        skipped = pipe.plan(**inputs).skipped
        idle = [f"{unit.name} ({skipped[unit.name]})" for unit in made.units if unit.name in skipped]
        if idle:
            raise InputError(
                f"a call that gives nothing to the pack skips {', '.join(idle)}; give its inputs in --call"
            )
    pipe(**inputs)
    return pipe


def _tiny(cls: type, name: str, hint: Any, embedded: Mapping[str, Any]) -> Any:
    from calotype.nn.network import Network

    if hint is UNet2DModel or (hint is None and name == "unet"):
        return UNet2DModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    for component in embedded.values():
        if isinstance(hint, type) and type(component) is hint:
            return component
    if name == "scheduler":
        return DDPMScheduler()
    if hint is None and isinstance(embedded.get(name), Network):
        return embedded[name]
    raise InputError(f"{cls.__name__} needs {name!r}, for which there is no small one here; give --weights")
